"""The features of a finished atlas, as a user asks for them: what is made, what a change makes again."""

import shutil

import pandas as pd
import pytest
import yaml

from workflow import SMALL, kinds, planned, small, snakemake

FEATURES = {"layers": [1], "tokens": "1k", "contexts": 3, "window": 8}


@pytest.fixture(scope="module")
def looked_at(finished, tmp_path_factory):
    """The finished atlas with the features of one layer."""
    folder = tmp_path_factory.mktemp("features") / "atlas"
    shutil.copytree(finished.folder, folder)
    snakemake(folder, small(features=FEATURES))
    return folder


def test_features_of_the_layers_asked_for(looked_at):
    for recipe in SMALL["recipes"]:
        there = sorted(path.name for path in (looked_at / "results" / "features" / recipe).iterdir())
        assert there == [f"layer01_{file}.parquet" for file in ("contexts", "evolution", "features")]
        stem = looked_at / "results" / "features" / recipe / "layer01"
        contexts, about = pd.read_parquet(f"{stem}_contexts.parquet"), pd.read_parquet(f"{stem}_features.parquet")
        assert set(contexts.latent) == set(about.latent[about.alive])
        assert (about.tokens_seen > 950).all()
        top = contexts[contexts.band == "top"]
        assert (top.groupby("latent").activation.first() == about[about.alive].set_index("latent").max_activation).all()
        assert contexts.topic.notna().all()
        assert about.promoted.map(len).eq(10).all()
    assert not list((looked_at / "results" / "features").glob("*.zarr"))


def test_a_second_run_does_nothing(looked_at):
    assert planned(looked_at, small(features=FEATURES)) == []


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        ({"features": FEATURES | {"contexts": 4}}, {"text": 1, "contexts": 2}),
        ({"features": FEATURES | {"tokens": "2k"}}, {"text": 1, "contexts": 2}),
        ({"features": FEATURES | {"layers": [0, 1]}}, {"text": 1, "contexts": 2, "evolution": 2}),
        ({"features": {"layers": [1], "split": "held_out", "contexts": 3, "window": 8}}, {"contexts": 2}),
        ({"features": FEATURES, "figures.colour_map": "magma"}, {"figure": 14, "release": 2, "page": 1}),
    ],
    ids=["more contexts", "more text", "one layer more", "held-out text needs no pass", "a colour map"],
)
def test_only_what_a_change_reaches_runs_again(looked_at, changes, jobs):
    assert kinds(planned(looked_at, small(**changes))) == jobs


def test_a_new_recipe_reads_the_text_for_itself_alone(looked_at):
    wide = {**SMALL["recipes"]["topk"], "expansion": 8}
    jobs = kinds(planned(looked_at, small(**{"features": FEATURES, "recipes.wide": wide})))
    assert (jobs["text"], jobs["contexts"], jobs["evolution"]) == (1, 1, 1)


def test_nothing_of_it_is_done_without_the_section(finished):
    assert not {"text", "contexts", "evolution"} & set(kinds(planned(finished.folder, small())))


def test_contexts_of_another_run_are_refused(looked_at, tmp_path):
    """Without Snakemake's memory a changed corpus goes unseen by it; the stage sees that the checkpoint is of another."""
    folder = tmp_path / "copied"
    shutil.copytree(looked_at, folder, ignore=shutil.ignore_patterns(".snakemake"))
    record = folder / "results" / "features" / "topk" / "layer01_contexts.parquet"
    record.unlink()
    config = small(features=FEATURES | {"split": "held_out"} | {"tokens": "1k"})
    del config["features"]["tokens"]
    config["recipes"]["topk"]["k"] = 5
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(folder, config, str(record.relative_to(folder)), check=False)
    assert done.returncode != 0
    assert "sae_layer01_3k.pt: made by other settings, code or inputs" in done.stdout
