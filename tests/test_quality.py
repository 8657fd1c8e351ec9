"""The benchmarks of stores and of quality run at toy size and their tables are whole; how good anyone is is not tested."""

import importlib.util
import itertools
import json
import subprocess
import sys

import pytest

from benchmarks import claims, rates
from benchmarks.quality import choose
from workflow import ROOT

PEERS = {"sae_lens", "sparsify"}  # tests run without them, `make bench TOY=--toy` has them


def run(name: str, out, *more) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--toy", "--out", out, *more]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    assert len((out / f"{name.upper()}.md").read_text().splitlines()) > 10
    return json.loads((out / f"{name}.json").read_text())


@pytest.mark.long
def test_every_precision_is_measured_against_float16(tmp_path):
    rows = {(row["precision"], row["compression"]): row for row in run("stores", tmp_path, "--seeds", "1")["rows"]}
    assert {name for name, _ in rows} >= {"float16", "int8"}
    plain = rows["float16", "none"]
    assert plain["change"]["fvu"] == [0]
    assert 0 < rows["int8", "none"]["bytes_per_token"] < plain["bytes_per_token"]
    assert rows["int8", "zstd"]["bytes_per_token"] < rows["int8", "none"]["bytes_per_token"]
    assert rows["int8", "none"]["change"]["fvu"] == rows["int8", "zstd"]["change"]["fvu"] != [0]


@pytest.mark.long
def test_every_sae_is_measured_with_passes_of_both_precisions(tmp_path):
    found = run("precision", tmp_path, "--seeds", "1")
    rows = {(row["layer"], row["trained_on"], row["measured_in"]): row for row in found["rows"]}
    assert len(rows) == 2 * 2 * 2
    for layer in (0, 1):
        one, other = (rows[layer, "float32", measured_in] for measured_in in ("float32", "bfloat16"))
        assert one["fvu"] == pytest.approx(other["fvu"], rel=0.01) and one != other
    assert {dtype: len(taken) for dtype, taken in found["seconds"].items()} == {"float32": 5, "bfloat16": 5}


@pytest.mark.long
def test_every_layer_is_trained_at_every_rate(tmp_path):
    found = run("rates", tmp_path, "--seeds", "2")
    rows = {(row["layer"], row["factor"], row["seed"]): row for row in found["rows"]}
    assert set(rows) == set(itertools.product((0, 1), rates.FACTORS, (0, 1)))
    assert len({row["fvu"] for row in rows.values()}) == len(rows)
    assert rows[0, 2.0, 0]["learning_rate"] == 2 * rows[0, 1.0, 0]["learning_rate"]


@pytest.mark.long
def test_fine_tuning_is_tried_on_one_layer_and_measured_on_the_others(tmp_path):
    rows = run("finetune", tmp_path)["rows"]
    on_first = [row for row in rows if row["layer"] == 1]
    assert [row["tuned"] for row in on_first] == [0, 512, 1024]
    best = min(on_first[1:], key=lambda row: row["kl"])["tuned"]
    assert [(row["layer"], row["tuned"]) for row in rows[3:]] == [(0, 0), (0, best)]
    assert all(value > 0 for row in rows for value in row["seconds"].values())
    assert len({tuple(row["kl"]) for row in rows}) == len(rows)


@pytest.mark.long
def test_every_claim_is_tried_on_one_layer_and_its_best_setting_on_the_other(tmp_path):
    rows = run("claims", tmp_path)["rows"]
    every = claims.claims(small=True)
    assert list(dict.fromkeys(row["claim"] for row in rows)) == [claim.name for claim in every]
    for claim in every:
        of_claim = [row for row in rows if row["claim"] == claim.name]
        tried = [row["setting"] for row in of_claim if row["layer"] == 1]
        assert tried[: len(claim.settings)] == list(claim.settings) and len(tried) <= 2 * len(claim.settings)
        reported = [row for row in of_claim if row["layer"] == 0]
        assert [row["seed"] for row in reported] in ([], [0, 1], [0, 1, 0, 1])
        assert all(one["fvu"] != other["fvu"] for one, other in zip(reported[::2], reported[1::2], strict=True))
        assert all(low <= value <= high for row in of_claim for value, low, high in (row["fvu"], row["l0"]))
    assert {row["l0"][0] for row in rows if row["claim"] in ("TopK", "AbsTopK")} == {4}


@pytest.mark.long
def test_every_trainer_is_measured_or_says_why_not(tmp_path):
    rows = run("quality", tmp_path, "--seeds", "2")["rows"]
    absent = {row["library"] for row in rows if "reason" in row}
    assert absent == {name for name in PEERS if not importlib.util.find_spec(name)}
    for row in rows:
        if "reason" not in row:
            # Thresholds that begin at 1 are above every pre-activation, and 16 steps do not bring them down.
            silent = "jumprelu_init_threshold" in row["setting"]
            assert row["fvu"] > 0 and (row["l0"] == 0 and not row["chosen"] if silent else 0 < row["l0"] <= 128)
    ours = [row for row in rows if row["library"] == "sae_atlas" and row["architecture"] == "topk"]
    assert [(row["layer"], row["seed"]) for row in ours if row["chosen"]] == [(1, 0), (1, 1), (0, 0), (0, 1)]
    best = choose([row for row in ours if (row["layer"], row["seed"]) == (1, 0)])
    assert all(row["chosen"] == (row["setting"] == best) for row in ours)
    assert ours[0]["l0"] == pytest.approx(32, rel=0.05)


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("sae_lens") is None, reason="SAELens is not installed here")
def test_every_trainer_is_measured_against_the_truth_by_both_codes_and_once(tmp_path):
    rows = run("known_truth", tmp_path, "--seeds", "2")["rows"]
    assert {(row["library"], row["architecture"]) for row in rows} == set(
        itertools.product(("sae_atlas", "sae_lens"), ("topk", "batch_topk", "matryoshka"))
    )
    assert [row["seed"] for row in rows if row["chosen"]] == [0, 1] * 6
    for row in rows:
        assert row["sae_lens"] == pytest.approx({name: row[name] for name in row["sae_lens"]}, abs=1e-5)
    assert len({row["fvu"] for row in rows}) == len(rows)
    assert run("known_truth", tmp_path, "--seeds", "2")["rows"] == rows


@pytest.mark.long
def test_all_that_a_gpu_is_asked_runs_at_toy_size_without_one(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--toy", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    stages = ["save_activations", "save_held_out", "shard_activations", "train_sae", "train_sae", "evaluate_sae"]
    assert [name.split(",")[0] for name in found["chain"]] == stages
    assert all(took["tokens per second"] > 0 for took in found["chain"].values())
    assert [row["finite"] for row in found["steps"]] == [True, True]


def test_what_goes_on_has_the_fewest_dead_of_those_that_recover_as_much():
    names = ("setting", "ce_recovered", "dead", "l0")
    rows = [("best", 0.98, 400, 32), ("alike", 0.978, 20, 32), ("worse", 0.97, 0, 32), ("dense", 0.99, 0, 60)]
    assert choose([dict(zip(names, row, strict=True)) for row in rows]) == "alike"
    assert choose([dict(zip(names, row, strict=True)) for row in rows[3:]]) == "dense"
    silent = dict(zip(names, ("silent", 0.09, 128, 0), strict=True))
    assert choose([silent, dict(zip(names, rows[3], strict=True))]) == "dense"
    assert choose([silent]) == "silent"
