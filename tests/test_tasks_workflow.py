"""The tasks of a small atlas, as a user asks for them; what cannot be asked is said before anything runs."""

import json

import numpy as np
import pandas as pd
import pytest

from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.metrics.labels import OF_TASKS
from sae_atlas.stages.atlas import Atlas
from sae_atlas.tasks.sae_bench import outputs
from workflow import SMALL, kinds, planned, small, snakemake

OF_TOPICS = ["sparse_probing", "targeted_probe_perturbation", "spurious_correlation_removal"]
ASKED = {"tokens": "1k", "patched_tokens": 512, "tasks": OF_TOPICS, "task_tokens": "16k"}
WORDS = {  # bytes are no words, and documents of bytes are few
    "base_model.tokenizer": "package",
    "activations.layers": [0, 1],
    "corpus.tokens": "20k",
    "training": {"tokens": "2k", "snapshots": ["1k"]},
    "recipes": {"topk": SMALL["recipes"]["topk"]},
}
TARGETS = [
    "results/metrics.parquet",
    "results/figures/topk/2_metrics_heatmap.svg",
    "models/sae/small-neox_resid1_exp4_2k_topk/model_card.md",
]


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """An atlas that was finished before it was asked the tasks on topics; and the jobs that this took, by rule."""
    folder = tmp_path_factory.mktemp("tasks") / "atlas"
    folder.mkdir()
    snakemake(folder, small(**WORDS), *TARGETS)
    jobs = kinds(planned(folder, small(**WORDS, evaluation=ASKED), *TARGETS))
    snakemake(folder, small(**WORDS, evaluation=ASKED), *TARGETS)
    return folder, jobs


def test_what_is_there_stays_and_the_tasks_are_asked_of_every_layer(answered):
    folder, jobs = answered
    assert jobs["tasks"] == 2 and jobs["text of tasks"] == 1
    assert not {"train", "activations", "evaluate", "held-out"} & {*jobs}
    assert not list((folder / "results" / "tasks").glob("*"))  # what was read is temporary
    assert planned(folder, small(**WORDS, evaluation=ASKED), *TARGETS) == []


def test_the_answers_stand_in_the_tables_beside_the_other_metrics(answered):
    folder, _ = answered
    table = pd.read_parquet(folder / "results" / "metrics.parquet")
    asked = table[table.metric.isin(OF_TASKS)]
    assert {*asked.metric} == {name for name in OF_TASKS if name.startswith(("probing", "tpp", "scr"))}
    assert asked.groupby(["recipe", "layer", "snapshot"]).size().nunique() == 1 and len({*asked.layer}) == 2
    known = asked[asked.metric.str.startswith("probing")]
    assert known.value.between(0, 1).all() and (known.low <= known.value).all() and (known.value <= known.high).all()
    card = (folder / TARGETS[2]).read_text(encoding="utf-8")
    assert "| TPP, 10 latents |" in card and "2605.18229" in card and "of topics over documents" in card
    svg = (folder / TARGETS[1]).read_text(encoding="utf-8")
    assert "topic from 1 latent" in svg


def test_an_atlas_that_does_not_ask_keeps_its_identities():
    plain, asked = (Atlas(complete_config(small(**WORDS, **each), "c.yaml")) for each in ({}, {"evaluation": ASKED}))
    for stage in ("evaluate_sae", "train_sae", "save_held_out"):
        cell = (
            {"recipe": "topk", "layer": 0, "snapshot": "1k"} if stage == "train_sae" else {"recipe": "topk", "layer": 0}
        )
        cell = {} if stage == "save_held_out" else cell
        assert plain.identity(stage, **cell) == asked.identity(stage, **cell)
    assert plain.inputs("collect_metrics", recipe="topk") != asked.inputs("collect_metrics", recipe="topk")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"evaluation": {"tasks": ["probing"]}},
            "evaluation.tasks.0: 'probing' is not allowed; did you mean `sparse_probing`?",
        ),
        ({"evaluation": {"tasks": ["first_letter"] * 2}}, "each once"),
        (
            {"evaluation": {"tasks": OF_TOPICS[:1]}, "corpus": {"topic": "Mathematics"}},
            "evaluation.tasks: sparse_probing compares topics, and corpus.topic leaves one; remove one of them",
        ),
        ({"evaluation": {"task_tokens": 100}}, "evaluation.task_tokens: is text for evaluation.tasks on topics"),
        (
            {"evaluation": {"tasks": OF_TOPICS[:1], "task_tokens": "9k"}},
            "evaluation.task_tokens: 9000 is beyond the corpus (8000)",
        ),
        (
            {"evaluation": {"tasks": OF_TOPICS[:1], "task_tokens": 100}, "corpus": None},
            "only corpus.source `package` has",
        ),
        (
            {"evaluation": {"tasks": ["first_letter"]}, "activations": {"target": "mlp_out"}},
            "a transcoder writes elsewhere",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(changes, line, tmp_path):
    config = small()
    for section, values in changes.items():
        if values is None:
            (tmp_path / "text.jsonl").write_text(json.dumps({"text": "a word"}), encoding="utf-8")
            keys = {key: value for key, value in config[section].items() if key not in ("source", "package")}
            config[section] = keys | {"source": "local", "path": str(tmp_path / "text.jsonl"), "field": "text"}
        else:
            config[section] = config[section] | values
    with pytest.raises(AtlasError) as caught:
        complete_config(config, "c.yaml")
    assert line in str(caught.value)


def test_an_sae_of_few_latents_is_exported_with_what_was_asked_of_it():
    answers = {"values": {"probing_1": 0.7, "probing_2": 0.8, "probing_dense": 0.9}, "letters": []}
    section = outputs(answers, "model", "text")["sparse_probing"]
    assert section["eval_config"]["k_values"] == [1, 2]
    assert set(section["eval_result_metrics"]["sae"]) == {"sae_top_1_test_accuracy", "sae_top_2_test_accuracy"}


def test_the_export_has_the_names_of_sae_bench():
    values = {"probing_dense": 0.9} | {f"probing_{count}": 0.8 for count in (1, 2, 5)}
    values |= {f"tpp_{count}{tail}": 0.1 for count in (2, 10) for tail in ("", "_intended", "_unintended")}
    values |= {f"scr_{count}{tail}": 0.2 for count in (2, 10) for tail in ("", "_dir1", "_dir2")}
    letters = [
        {"letter": letter, "fraction": fraction, "full": 1, "words": 4, "latents": [3, 5]}
        for letter, fraction in (("a", 0.5), ("b", 0.0))
    ]
    found = outputs({"values": values, "letters": letters}, "model", "text")
    assert sorted(found) == ["absorption_first_letter", "scr", "sparse_probing", "tpp"]
    assert found["sparse_probing"]["eval_result_metrics"]["sae"]["sae_top_2_test_accuracy"] == 0.8
    assert found["tpp"]["eval_result_metrics"]["tpp_metrics"]["tpp_threshold_10_intended_diff_only"] == 0.1
    assert found["scr"]["eval_result_metrics"]["scr_metrics"]["scr_dir2_threshold_2"] == 0.2
    mean = found["absorption_first_letter"]["eval_result_metrics"]["mean"]
    assert mean["mean_absorption_fraction_score"] == 0.25 and mean["mean_num_split_features"] == 2
    assert mean["std_dev_absorption_fraction_score"] == pytest.approx(np.std([0.5, 0], ddof=1))
    assert outputs({"values": {}, "letters": letters[:1]}, "model", "text") == {}
