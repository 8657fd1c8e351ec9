"""The features of a finished atlas, as a user asks for them: what is made, what a change makes again."""

import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from chat import serving

from sae_atlas.base_models.load import load_tokenizer
from sae_atlas.corpus import open_corpus
from sae_atlas.features.decoder import Decoder
from workflow import SMALL, kinds, planned, small, snakemake

READ = {"contexts": 2, "contexts of matches": 2}  # rules that read the text, for two recipes
FILES = ("contexts", "documents", "evolution", "features", "matches", "names", "probes", "raw", "scores")
KEY = "a-very-secret-key"
FEATURES = {"layers": [1], "tokens": "1k", "contexts": 3, "window": 8}
HELD_OUT = {"layers": [1], "split": "held_out", "contexts": 3, "window": 8}


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
        assert there == [f"layer01_{file}.parquet" for file in FILES]
        stem = looked_at / "results" / "features" / recipe / "layer01"
        contexts, about = pd.read_parquet(f"{stem}_contexts.parquet"), pd.read_parquet(f"{stem}_features.parquet")
        assert set(contexts.latent) == set(about.latent[about.alive])
        assert (about.tokens_seen > 950).all()
        top = contexts[contexts.band == "top"]
        assert (top.groupby("latent").activation.first() == about[about.alive].set_index("latent").max_activation).all()
        assert contexts.topic.notna().any()
        assert about.promoted.map(len).eq(10).all()
    assert not list((looked_at / "results" / "features").glob("*.zarr"))


def test_what_is_pooled_agrees_with_the_contexts_and_holds_nothing_masked(looked_at):
    corpus = open_corpus(looked_at / "results/corpus/wikipedia-introductions.zarr")
    for recipe in SMALL["recipes"]:
        stem = looked_at / "results" / "features" / recipe / "layer01"
        peaks, raw, about, scores = (
            pd.read_parquet(f"{stem}_{name}.parquet") for name in ("documents", "raw", "features", "scores")
        )
        about = about.set_index("latent")
        assert (peaks.groupby("latent").activation.max() == about.max_activation[about.alive]).all()
        tokens = np.concatenate(raw.tokens)
        assert len(tokens) == about.tokens_seen[0]
        assert corpus.attributes["document_start"] not in {*tokens, *peaks.token}
        assert min(map(min, raw.positions)) > 0  # position 0 is a document start
        assert scores.token_entropy.notna().tolist() == about.alive.tolist()


def test_tokens_read_as_the_tokenizer_of_transformers_reads_them(looked_at):
    provenance = looked_at / "results" / "base_model" / "provenance.json"
    tokenizer, decoder = load_tokenizer(provenance), Decoder.of_model(provenance)
    assert decoder(np.arange(257)) == tuple(tokenizer.decode([i]) for i in range(257))


def test_a_second_run_does_nothing(looked_at):
    assert planned(looked_at, small(features=FEATURES)) == []


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        ({"features": FEATURES | {"contexts": 4}}, {"text": 1, "contexts": 2, "scores": 2, "names": 2, "explorer": 1}),
        ({"features": FEATURES | {"tokens": "2k"}}, {"text": 1, **READ, "scores": 2, "names": 2, "explorer": 1}),
        (
            {"features": FEATURES | {"layers": [0, 1]}},
            {"text": 1, **READ, "evolution": 2, "scores": 2, "names": 2, "explorer": 1, "page": 1},
        ),
        ({"features": HELD_OUT}, {**READ, "scores": 2, "names": 2, "explorer": 1, "page": 1}),
        ({"features": FEATURES | {"scores": {"permutations": 99}}}, {"scores": 2, "explorer": 1}),
        (
            {"features": FEATURES | {"names": {"endpoint": {"url": "https://host/v1", "model": "m"}}}},
            {"names": 2, "explorer": 1},
        ),
        ({"features": FEATURES | {"names": {"scores": ["fuzzing"]}}}, {"names": 2, "explorer": 1}),
        ({"features": FEATURES, "figures.colour_map": "magma"}, {"figure": 14, "release": 2, "page": 1}),
    ],
    ids=[
        "more contexts",
        "more text",
        "one layer more",
        "held-out text needs no pass",
        "shuffles",
        "an endpoint",
        "a score of names",
        "a colour map",
    ],
)
def test_only_what_a_change_reaches_runs_again(looked_at, changes, jobs):
    """The page tells the time of every job: it changes with their number."""
    assert kinds(planned(looked_at, small(**changes))) == jobs


def test_a_new_recipe_reads_the_text_for_itself_alone(looked_at):
    wide = {**SMALL["recipes"]["topk"], "expansion": 8}
    jobs = kinds(planned(looked_at, small(**{"features": FEATURES, "recipes.wide": wide})))
    assert (jobs["text"], jobs["contexts"], jobs["evolution"]) == (1, 1, 1)


def test_other_programs_get_theirs_when_they_ask(looked_at, tmp_path):
    snakemake(looked_at, small(features=FEATURES), "contexts_json", "neuronpedia")
    for recipe in SMALL["recipes"]:
        folder = looked_at / "results" / "features" / recipe
        about = pd.read_parquet(folder / "layer01_features.parquet")
        listed = json.loads((folder / "layer01.json").read_text())
        batch = json.loads((folder / "neuronpedia" / "layer01.json").read_text())
        assert len(listed) == len(batch["features"]) == about.alive.sum()
        assert (batch["model_id"], batch["layer"], batch["sae_set"]) == ("small-neox", 1, recipe)
    folder = tmp_path / "copied"
    shutil.copytree(looked_at, folder, ignore=shutil.ignore_patterns(".snakemake"))
    assert planned(folder, small(features=FEATURES), "contexts_json") == []
    os.utime(folder / "results" / "features" / "topk" / "layer01_contexts.parquet")  # as if it had been made again
    assert planned(folder, small(features=FEATURES), "contexts_json") == ["JSON: topk, layer 01"]


def test_nothing_of_it_is_done_without_the_section(finished):
    assert not {"text", "contexts", "evolution"} & set(kinds(planned(finished.folder, small())))


def test_without_a_memory_a_changed_recipe_is_trained_before_its_contexts(looked_at, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(looked_at, folder, ignore=shutil.ignore_patterns(".snakemake"))
    config = small(features=FEATURES)
    config["recipes"]["topk"]["k"] = 5
    jobs = kinds(planned(folder, config, "results/features/topk/layer01_contexts.parquet"))
    assert jobs == {"activations": 3, "store": 9, "train": 9, "text": 1, "contexts": 1}


def test_names_of_a_model_are_paid_once(looked_at, tmp_path, monkeypatch):
    def answer(messages) -> str:
        if "names" not in messages[0]["content"]:
            return '{"active": [1], "intruder": 2}'
        asked = re.findall(r"^Feature (\d+)$", messages[1]["content"], re.MULTILINE)
        return json.dumps(
            {"names": [{"feature": int(each), "name": f"thing {each}", "confidence": 0.9} for each in asked]}
        )

    folder = tmp_path / "atlas"
    shutil.copytree(looked_at, folder)
    monkeypatch.setenv("NAMING_KEY", KEY)
    output = "results/features/topk/layer01_names.parquet"
    before = pd.read_parquet(folder / output)
    with serving(answer, (500, "")) as server:
        endpoint = {"url": server.url, "model": "small-model", "key_variable": "NAMING_KEY", "latents": 20, "batch": 5}
        config = small(features=FEATURES | {"names": {"endpoint": endpoint, "scores": ["fuzzing", "intruder"]}})
        printed = snakemake(folder, config, output).stdout
        paid = len(server.requests)
        names = pd.read_parquet(folder / output)
        (folder / output).unlink()
        endpoint["price"] = {"input": 1.0, "output": 2.0}
        printed += snakemake(folder, config, output).stdout
        assert len(server.requests) == paid  # every answer was on disk
    assert pd.read_parquet(folder / output).equals(names)
    asked = names[names.source == "small-model"]
    assert asked.name.tolist() == [f"thing {latent}" for latent in asked.latent]
    about = pd.read_parquet(folder / "results/features/topk/layer01_features.parquet")
    assert set(asked.latent) == set(about.nlargest(20, "importance").latent)
    others = names.latent[names.source != "small-model"]
    assert names.loc[others, before.columns].equals(before.loc[others])  # named offline, as before
    assert set(names.columns) - set(before.columns) == {"fuzzing", "intruder", "intruder_trials"}
    tried = names[names.intruder_trials > 0]
    assert tried.intruder.between(0, 1).all() and tried.fuzzing.between(0, 1).all() and set(tried.source) > {"offline"}
    log = (folder / "results/logs/name_latents/topk/layer01.log").read_text()
    assert "naming takes 0 requests" in log and "about $0.0000" in log
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert KEY not in printed and not any(KEY.encode() in path.read_bytes() for path in kept)
