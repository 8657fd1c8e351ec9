"""The benchmark's table is whole and the gradients it compares agree; what it times is not tested."""

import importlib.util
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.random_error import with_errors
from sae_atlas.base_models.load import load
from sae_atlas.kernels import screen
from sae_atlas.metrics.held_out import open_held_out
from sae_atlas.metrics.layer_data import LayerData

ROOT = Path(__file__).parent.parent
PEERS = {"sae_lens", "dictionary_learning", "sparsify"}  # tests run without them, `make bench TOY=--toy` has them


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "benchmarks.steps", "--toy", "--threads", "1", "--out", out]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    assert (out / "RESULTS.md").read_text().startswith("# One training step")
    return json.loads((out / "results.json").read_text())


@pytest.mark.long
def test_every_work_has_every_implementation(results):
    works = {row["work"] for row in results["rows"]}
    names = {row["implementation"] for row in results["rows"]}
    assert names == {"sae_atlas", "encoder product"} | PEERS
    assert len(results["rows"]) == len(works) * len(names)
    for row in results["rows"]:
        if row["ms"] is None:
            assert row["implementation"] in PEERS and row["reason"]
        else:
            assert 0 < row["low"] <= row["ms"] <= row["high"]
    for row in results["rows"]:
        if row["implementation"] == "sae_atlas":
            assert row["l0"] == pytest.approx(4, rel=0.1)


@pytest.mark.long
def test_gradients_agree(results):
    compared = {each["implementation"] for each in results["gradients"]}
    assert compared == {name for name in PEERS if importlib.util.find_spec(name)}
    assert all(each["agree"] for each in results["gradients"]), results["gradients"]


def test_the_stated_convention_tells_other_losses_apart():
    import torch

    from benchmarks.agreement import TOLERANCE, difference

    decoder = torch.eye(3)
    ours = {"W_dec": torch.arange(9.0).reshape(3, 3), "b_dec": torch.ones(3)}
    along = {"W_dec": ours["W_dec"] + 5 * decoder, "b_dec": torch.ones(3)}
    assert max(difference(ours, along, decoder, 1.0).values()) < TOLERANCE
    doubled = {name: 2 * each for name, each in ours.items()}
    assert max(difference(ours, doubled, decoder, 2.0).values()) < TOLERANCE
    assert min(difference(ours, doubled, decoder, 1.0).values()) > TOLERANCE


@pytest.mark.long
def test_the_evaluation_benchmark_times_every_way(tmp_path):
    command = [sys.executable, "-m", "benchmarks.evaluation", "--toy", "--snapshots", "2", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(found["seconds"]) == 4 and all(each > 0 for each in found["seconds"].values())
    assert found["times faster"]["kept"] == pytest.approx(found["seconds"]["from scratch"] / found["seconds"]["kept"])


@pytest.mark.long
@pytest.mark.skipif(not screen.available(), reason="this CPU has no int8 products (AVX-512 VNNI)")
def test_the_screening_benchmark_counts_misses(tmp_path):
    """Fewer with every wider margin, and none at the step's own."""
    command = [sys.executable, "-m", "benchmarks.screening", "--toy", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    for row in json.loads((tmp_path / "screening.json").read_text())["rows"]:
        missed = [each["missed"] for each in row["margins"]]
        assert missed == sorted(missed, reverse=True) and missed[0] > 0
        assert row["margins"][-1]["deviations"] == screen.SIGMAS and missed[-1] == 0


@pytest.mark.long
def test_saelens_measures_the_same():
    """FVU, L0 and losses by SAELens' own run_evals; its zero ablation takes the document starts too."""
    pytest.importorskip("sae_lens", reason="SAELens is in the environment of `make bench` only")
    command = [sys.executable, "-m", "benchmarks.independent"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_one_pass_and_a_pass_per_latent_agree():
    """Whoever times them checks that they find the same contexts; a toy run ends well only if they do."""
    command = [sys.executable, "-m", "benchmarks.contexts", "--toy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("128 latents in one pass") == 4


@pytest.mark.long
def test_the_load_benchmark_measures_every_stage(tmp_path):
    """At toy size, all stages in one process."""
    command = [sys.executable, "-m", "benchmarks.load", "--toy", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "load.json").read_text())
    assert found["graph"][0]["jobs"] > 20 and found["starts"][0]["imports"] == []
    every = [*found["wide"]["stages"].values(), *(each for row in found["tokens"] for each in row["at"].values())]
    assert len(every) == 3 * 10 and all(0 < each["start_mb"] <= each["peak_mb"] for each in every)
    text = (tmp_path / "LOAD.md").read_text()
    assert all(f"| {row['stage']} |" in text for row in found["tokens"])


@pytest.mark.long
def test_the_benchmark_of_starts_compares_them_on_the_second_layer(tmp_path):
    command = [sys.executable, "-m", "benchmarks.starts", "--toy", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "starts.json").read_text())["rows"]
    assert [(row["layer"], row["recipe"], row["tokens"]) for row in rows] == [
        (3, recipe, tokens) for recipe in ("random", "previous") for tokens in (4000, 8000)
    ]
    assert (tmp_path / "STARTS.md").read_text().count("| the layer before |") == 2


@pytest.mark.parametrize(
    "name",
    [
        "load_report",
        "precision",
        "quality_report",
        "transcoders",
        "starts",
        "claims_report",
        "run",
        "known_truth",
        "rates",
    ],
)
def test_a_table_is_that_of_its_numbers(name):
    folder, file = ROOT / "benchmarks", name.removesuffix("_report")
    found = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
    written = (folder / f"{file.upper()}.md").read_text(encoding="utf-8")
    assert written == import_module(f"benchmarks.{name}").markdown(found)


def test_the_table_of_a_run_has_every_rule_with_all_its_jobs(finished):
    rules = run.of_rules(finished.folder / "results" / "benchmarks")
    assert rules["train_sae"]["jobs"] == 2 * 3 * 3 and rules["train_sae"]["wall"] > rules["train_sae"]["jobs"] * 0.1
    assert rules["prepare_model"]["jobs"] == 1
    whole = {
        "commit": "abc1234",
        "elapsed": 100.0,
        "user": 150.0,
        "system": 5.0,
        "page_faults": 2_000_000,
        "plan": "of it\n",
    }
    gone = {"gone": {"jobs": 2, "wall": 60.0, "cpu": 60.0}}
    before, after = whole | {"rules": rules | gone}, whole | {"elapsed": 50.0, "rules": rules}
    text = run.markdown(
        {"before": before, "after": after, "machine": "a CPU", "date": "today", "cores": 2, "config": "c.yaml"}
    )
    assert "| gone | 2 | 0 | 60 | 0 |" in text
    assert "| **the whole run, by the clock** | | | 100 | 50 |" in text and "```\nof it\n```" in text
    assert all(f"| {rule} |" in text for rule in rules)


def test_a_random_error_costs_nothing_only_where_it_is_none(finished):
    results = finished.folder / "results"
    held_out = open_held_out(results / "held_out.zarr")
    model, _ = load(results / "base_model" / "provenance.json", held_out.model_dtype)
    none, large = with_errors(model, LayerData(held_out, "layer01", 10), 1, (0, 1))
    assert none == pytest.approx([1, 1, 1], abs=1e-5)
    assert large[1] <= large[0] <= large[2] and abs(large[0] - 1) > 1e-3
