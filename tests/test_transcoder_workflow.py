"""Transcoders through the workflow: from mlp_in to mlp_out, with metrics, figures, cards and the explorer."""

import base64
import gzip
import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import sae_atlas
from sae_atlas.__main__ import main
from sae_atlas.commands.summary import summarise
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json
from sae_atlas.metrics.held_out import open_held_out
from sae_atlas.sites import hooks
from workflow import planned, small, snakemake

LAYERS = [0, 1, 2, 3]
SIZES = {"expansion": 4, "k": 4, "batch": 128, "warmup": 2, "decay": 0, "learning_rate": 0.003}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transcoders")
    config = small(
        **{
            "activations.site": "mlp_in",
            "activations.target": "mlp_out",
            "activations.layers": LAYERS,
            "recipes": {
                "skip": {"architecture": "topk", "skip": True, **SIZES},
                "batchtopk": {"architecture": "batch_topk", **SIZES},
            },
            "training": {"tokens": "3k", "snapshots": ["1k"]},
            "features": {"layers": [1], "tokens": "1k", "contexts": 3, "window": 8},
        }
    )
    snakemake(folder, config)
    return folder, config


def metrics_of(folder, recipe, layer):
    table = pd.read_parquet(folder / "results" / "metrics" / f"{recipe}.parquet")
    return table.query("layer == @layer and snapshot == 'final'").set_index("metric")


def checkpoint(folder, recipe, layer):
    return sae_atlas.load_sae(folder / "results" / "checkpoints" / recipe / f"sae_layer{layer:02d}_3k.pt")


def test_it_is_finished(atlas):
    folder, config = atlas
    assert planned(folder, config) == []
    assert summarise(folder).startswith("\n16 transcoders: 2 recipes x 4 layers x 2 snapshots")
    for recipe in config["recipes"]:
        assert (folder / f"results/figures/{recipe}/9_replaced_layers.png").is_file()
    assert {path.name for path in folder.glob("models/sae/small-neox*")} == {
        f"small-neox_mlpin-mlp{layer}_exp4_3k_{recipe}" for layer in LAYERS for recipe in config["recipes"]
    }


@pytest.mark.parametrize("recipe", ["skip", "batchtopk"])
def test_fvu_is_of_the_target_on_held_out_text(atlas, recipe):
    folder, _ = atlas
    source, sae = open_held_out(folder / "results" / "held_out.zarr"), checkpoint(folder, recipe, 1)
    mask = source.rows("mask")[:]
    x, y = (torch.from_numpy(source.rows(f"layer01/{name}")[:][mask]) for name in ("site", "target"))
    fvu = (y - sae(x)).square().sum() / (y - y.mean(0)).square().sum()
    assert metrics_of(folder, recipe, 1).value["fvu"] == pytest.approx(fvu.item(), rel=1e-4)
    assert fvu < 1 or recipe == "batchtopk"  # the skip connection at least learns the mean


def test_held_out_data_are_the_models_own(atlas):
    folder, _ = atlas
    source = open_held_out(folder / "results" / "held_out.zarr")
    model, _ = sae_atlas.load_model(folder / "results" / "base_model" / "provenance.json")
    tokens = torch.from_numpy(source.rows("tokens")[:2])
    with torch.inference_mode(), hooks.capture_sites(model, ["mlp_in", "mlp_out"], LAYERS, stop=False) as found:
        model(tokens)
    for layer in LAYERS:
        for name, site in (("site", "mlp_in"), ("target", "mlp_out")):
            torch.testing.assert_close(
                torch.from_numpy(source.rows(f"layer{layer:02d}/{name}")[:2]), found[site][layer], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("recipe", ["skip", "batchtopk"])
def test_one_replaced_layer_is_what_its_evaluation_measured(atlas, recipe):
    """The first row of the curve runs the whole model, the evaluation starts at the layer: the same losses."""
    folder, _ = atlas
    table = pd.read_parquet(folder / f"results/metrics/{recipe}/replaced_layers.parquet")
    assert sorted(table["layers"].unique()) == [1, 2, 3, 4]
    one, of_layer = table.query("layers == 1").set_index("metric"), metrics_of(folder, recipe, 0)
    for metric in ("ce_sae", "ce_zero", "ce_increase", "kl"):
        assert one.value[metric] == pytest.approx(of_layer.value[metric], rel=1e-4, abs=1e-6)
        assert one.low[metric] <= one.value[metric] <= one.high[metric]
    assert table.query("metric == 'ce_sae'").value.nunique() == 4


def test_patch_puts_the_transcoder_in_the_mlps_place(atlas):
    folder, _ = atlas
    model, _ = sae_atlas.load_model(folder / "results" / "base_model" / "provenance.json")
    sae, tokens = checkpoint(folder, "skip", 1), torch.arange(24).reshape(2, 12) % 200
    with torch.inference_mode():
        clean = model(tokens).logits
        with sae_atlas.capture(model, "mlp_in", [1]) as read, sae_atlas.capture(model, "mlp_out", [1]) as written:
            model(tokens)
        with sae_atlas.patch(model, sae), sae_atlas.capture(model, "mlp_out", [1]) as patched:
            through = model(tokens).logits
    torch.testing.assert_close(patched[1][:, 1:], sae(read[1])[:, 1:])
    torch.testing.assert_close(patched[1][:, :1], written[1][:, :1])
    assert not torch.allclose(through, clean)
    del sae.config["activations"]["target"]
    with pytest.raises(AtlasError, match="does not say what it predicts; give its target"), sae_atlas.patch(model, sae):
        pass
    with torch.inference_mode(), sae_atlas.patch(model, sae, target="mlp_out"):
        torch.testing.assert_close(model(tokens).logits, through)


def test_cards_and_pages_say_that_it_is_a_transcoder(atlas):
    folder, _ = atlas
    sae = folder / "models" / "sae" / "small-neox_mlpin-mlp1_exp4_3k_batchtopk"
    config = read_json(sae / "config.json")
    assert (config["site"], config["target"], config["d_out"]) == ("mlp_in", "mlp_out", 32)
    assert "transcoder" in (sae / "model_card.md").read_text().lower()
    page = (folder / "results" / "index.html").read_text(encoding="utf-8")
    assert "<h1>Transcoders on small-neox</h1>" in page and "<dt>Site</dt><dd>mlp_in → mlp_out</dd>" in page
    data = (folder / "results" / "explorer" / "data" / "atlas.js").read_text(encoding="utf-8")
    packed = data.rpartition('","')[2].rstrip('");\n')
    assert json.loads(gzip.decompress(base64.b64decode(packed)))["site"] == "mlp_in → mlp_out"


def test_latents_promote_tokens_through_their_decoder(atlas):
    folder, _ = atlas
    table = pd.read_parquet(folder / "results" / "features" / "skip" / "layer01_features.parquet")
    assert all(len(row) > 0 for row in table.promoted)
    contexts = pd.read_parquet(folder / "results" / "features" / "skip" / "layer01_contexts.parquet")
    assert len(contexts) and np.isfinite(contexts.activation).all()


def test_a_release_goes_to_circuit_tracer_with_what_its_latents_fire_on(atlas, tmp_path):
    folder, _ = atlas
    release = folder / "models" / "releases" / "small-neox-transcoders-x4-batchtopk"
    assert main(["export", str(release), "circuit_tracer", str(tmp_path)]) == 0
    config = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert (config["feature_input_hook"], config["scan"]) == ("mlp.hook_in", "./data/features")
    table = pd.read_parquet(folder / "results" / "features" / "batchtopk" / "layer01_features.parquet")
    alive = table[table.alive]
    assert {path.name for path in (tmp_path / "features").iterdir()} == {
        f"{(1 + latent) * (2 + latent) // 2 + latent}.json" for latent in alive.latent
    }
    row = alive.iloc[0]
    shown = read_json(tmp_path / "features" / f"{(1 + row.latent) * (2 + row.latent) // 2 + row.latent}.json")
    best = shown["examples_quantiles"][0]["examples"][0]
    assert shown["examples_quantiles"][0]["quantile_name"] == "highest activations"
    assert best["tokens_acts_list"][best["train_token_ind"]] == pytest.approx(row.max_activation, abs=1e-3)
    assert len(best["tokens"]) == len(best["tokens_acts_list"]) and shown["top_logits"] == list(row.promoted)


def test_what_does_not_fit_is_refused_before_any_job(tmp_path):
    base = {"activations.site": "mlp_in", "activations.target": "mlp_out"}
    for changes, line in (
        ({"activations.site": "mlp_in", "activations.target": "mlp_in"}, "which an SAE rebuilds"),
        ({**base, "activations.target": "nowhere"}, "activations.target: no site 'nowhere'"),
        ({"activations.site": "mlp_out", "activations.target": "attn_out"}, "attn_out is computed before mlp_out"),
        ({**base, "floors": {"widths": [8, 16]}}, "floors: are predicted from the latents of SAEs"),
        ({"recipes": {"a": {"architecture": "topk", "skip": True, **SIZES}}}, "only a transcoder has a skip"),
        (
            {**base, "recipes": {"a": {"architecture": "matching_pursuit", **SIZES}}},
            "encodes with its decoder, and so cannot predict",
        ),
    ):
        with pytest.raises(AssertionError, match=line):
            planned(tmp_path, small(**changes))
