"""An atlas in which no latent ever fires is finished, and says so wherever one looks."""

import json

import pandas as pd
import pytest

from sae_atlas.commands.latents import clearest, describe
from sae_atlas.features.as_json import contexts_as_json, contexts_for_neuronpedia
from sae_atlas.io.errors import AtlasError
from workflow import planned, small, snakemake

DEAD = {"architecture": "jumprelu", "expansion": 4, "jumprelu": {"threshold": 1e6}, "batch": 128}


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dead")
    config = small(
        **{
            "recipes": {"dead": DEAD | {"warmup": 2, "sparsity_warmup": 2, "decay": 0}},
            "activations.layers": [0, 1],
            "training": {"tokens": "1k", "snapshots": []},
            "floors": {"widths": [8, 16]},
            "features": {"layers": [1], "tokens": "1k", "contexts": 3, "window": 8},
        }
    )
    snakemake(folder, config)
    return folder, config


def test_it_is_finished(dead):
    folder, config = dead
    assert len(list(folder.glob("results/figures/dead/*.png"))) == 8
    assert (folder / "results" / "index.html").is_file() and len(list(folder.glob("models/releases/*/README.md"))) == 1
    assert planned(folder, config) == []


def test_tables_and_cards_say_that_all_latents_are_dead(dead):
    folder, _ = dead
    table = pd.read_parquet(folder / "results" / "metrics.parquet").query("metric in ('dead', 'l0')")
    assert table.groupby("metric").value.agg(["min", "max"]).T.to_dict("list") == {"dead": [128, 128], "l0": [0, 0]}
    for card in folder.glob("models/sae/*/model_card.md"):
        assert "128 of 128 latents did not fire on 1,021 held-out tokens" in card.read_text()
    flow = pd.read_parquet(folder / "results" / "metrics" / "dead" / "flow.parquet")
    assert flow.layer.tolist() == [0, 1] and flow.latent.tolist() == [-1, -1]
    for figure in ("5_importance_spectrum", "7_layer_flow"):
        drawn = (folder / "results" / "figures" / "dead" / f"{figure}.svg").read_text()
        assert "no latent fired in layer 0, 1" in drawn


def test_the_explorer_shows_a_layer_of_dead_latents(dead):
    folder, _ = dead
    stem = folder / "results" / "features" / "dead" / "layer01"
    assert pd.read_parquet(f"{stem}_contexts.parquet").empty
    assert not pd.read_parquet(f"{stem}_features.parquet").alive.any()
    assert pd.read_parquet(f"{stem}_names.parquet").name.isna().all()


def test_what_is_exported_of_them_is_empty(dead, tmp_path):
    folder, _ = dead
    stem, model = (
        folder / "results" / "features" / "dead" / "layer01",
        folder / "results" / "base_model" / "provenance.json",
    )
    contexts_as_json(f"{stem}_contexts.parquet", model, tmp_path / "a.json")
    about = {"model": "m", "layer": 1, "recipe": "dead", "dataset": "text", "context": 32}
    tables = (f"{stem}_contexts.parquet", f"{stem}_features.parquet", model)
    contexts_for_neuronpedia(*tables, tmp_path / "b.json", **about)
    assert json.loads((tmp_path / "a.json").read_text()) == {}
    assert json.loads((tmp_path / "b.json").read_text())["features"] == []


def test_who_asks_for_the_clearest_is_told_that_there_is_none(dead):
    folder = dead[0] / "results" / "features" / "dead"
    with pytest.raises(AtlasError, match="none of its 128 latents fires on the text; train longer"):
        clearest(folder)
    assert describe(folder, 1, 3).startswith("layer 1, latent 3: dead, it fires on none of ")
