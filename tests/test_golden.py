"""Results of every stage are what they were, unless its version was raised.

Two small atlases are run, and their results held against tests/golden.json. After a version was raised, `make golden` (that is
`PYTHONPATH=tests python -m golden`) makes it again.
"""

import copy
import json

import golden as module
import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch
from digests import digest, numbers, summary
from golden import FILE, OUTPUTS, TOLERANCE, before, complaints, is_close, results, run, write

from sae_atlas.stages import STAGES


@pytest.fixture(scope="module")
def golden():
    return json.loads(FILE.read_text())


def test_every_stage_has_golden_results(golden):
    assert set(STAGES) == set(OUTPUTS) == set(golden)
    assert all(each["results"] for each in golden.values())


def test_results_move_only_with_the_version_of_their_stage(golden, tmp_path):
    run(tmp_path)
    unexplained, outdated = complaints(results(tmp_path), golden)
    assert not unexplained + outdated, "\n".join(unexplained + outdated)


def moved(golden, *stages):
    """The golden results with one number of these stages a little beyond the tolerance."""
    found = copy.deepcopy(golden)
    for stage in stages:
        numbers = next(numbers for numbers in found[stage]["results"].values() if numbers[-2:][0])
        numbers[-2 % len(numbers)] *= 1 + 1.1 * TOLERANCE
    return found


def test_a_moved_number_is_told_with_its_stage_and_what_to_do(golden):
    found = moved(golden, "train_sae", "evaluate_sae", "page", "plot_pareto")
    (line,), outdated = complaints(found, golden)
    assert line.startswith("stage train_sae: its results moved (") and outdated == []
    assert (
        "raise `version` in sae_atlas/stages/training.py and make the golden results again with `make golden`" in line
    )
    assert line.endswith("After it moved: evaluate_sae, page, plot_pareto")


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_each_stage_alone_is_noticed(golden, stage):
    (line,), _ = complaints(moved(golden, stage), golden)
    assert line.startswith(f"stage {stage}: ") and "After it" not in line


def test_stages_that_do_not_follow_each_other_are_told_apart(golden):
    lines, _ = complaints(moved(golden, "train_sae", "save_held_out", "distill"), golden)
    assert [line.split(":")[0] for line in lines] == ["stage train_sae", "stage save_held_out", "stage distill"]


def test_a_result_more_or_less_is_a_moved_one(golden):
    for change in (lambda each: each.pop("accuracy", None) or each.popitem(), lambda each: each.update(new=[1.0])):
        found = copy.deepcopy(golden)
        change(found["score_latents"]["results"])
        assert complaints(found, golden)[0][0].startswith("stage score_latents: ")


def test_a_raised_version_asks_for_new_golden_results(golden):
    found = moved(golden, "train_sae", "evaluate_sae")
    found["train_sae"]["version"] += 1
    assert complaints(found, golden) == (
        [],
        [
            f"stage train_sae: its version is {found['train_sae']['version']}, its golden results are of version "
            f"{golden['train_sae']['version']}: make them again with `make golden`"
        ],
    )


def test_golden_results_are_made_again_for_a_reason_and_only_where_they_moved(golden, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILE", tmp_path / "golden.json")
    write(copy.deepcopy(golden))
    assert module.FILE.read_text() == FILE.read_text()
    with pytest.raises(SystemExit, match="stage floors: its results moved"):
        write(moved(golden, "floors"))
    found = moved(golden, "floors", "fit_floors")
    found["floors"]["version"] += 1
    found["index"]["results"]["numbers"][1] *= 1 + TOLERANCE / 2  # another machine's
    written = copy.deepcopy(found)
    write(written)
    again = json.loads(module.FILE.read_text())
    assert again["floors"] == found["floors"] and again["fit_floors"] == found["fit_floors"]
    assert again["index"] == golden["index"]


def test_what_a_stage_is_made_from():
    assert before("tokenize") == {"prepare_model"} and before("prepare_model") == before("make_tokenizer") == set()
    assert {"save_activations", "shard_activations", "tokenize"} <= before("train_sae") and "train_sae" not in before(
        "train_sae"
    )
    assert {"train_sae", "evaluate_sae", "model_card"} <= before("import_sae") & before("page")
    assert before("merge_lora") >= {"make_tokenizer", "pretrain", "prepare_base", "tokenize_domain", "fine_tune_lora"}
    assert "train_sae" not in before("distill") | before("save_held_out")


def test_closeness():
    assert is_close([10, 1.0005, 0.0004], [10, 1.0, 0.0]) and is_close([3.0], [3.002])
    assert not is_close([10, 1.0, 0.0011], [10, 1.0, 0.0]) and not is_close([3.0], [3.004])
    assert not is_close([11, 1.0, 0.0], [10, 1.0, 0.0]) and not is_close([], [3.0])


# --- what a digest sees ---------------------------------------------------------------------------------------------------


def test_a_summary_sees_scale_sign_order_and_a_single_value():
    values = np.random.default_rng(0).normal(size=2000)
    before_it = summary(values, True)
    other = values.copy()
    other[7] += 1
    assert before_it[0] == 2000 and is_close(summary(values * 1.0005, True), before_it)
    for change in (values * 1.002, -values, values[::-1], np.roll(values, 1), other, values[1:]):
        assert not is_close(summary(change, True), before_it)
    assert summary(values[::-1], False) == summary(values, False) and not is_close(
        summary(-values, False), summary(values, False)
    )
    assert summary(np.array([np.nan, 2.5]), True) == [2.5] and summary(np.array([np.nan]), True) == []


def test_numbers_in_a_text():
    """No dates, hashes, versions, sizes, names: what is left is on a scale that is linear below 1, logarithmic above."""
    text = "Card of 2026-11-28, `44e0fbc2b8020349`, 0.2 MB, wiki==0.0.7, layer01, cc-by-sa-4.0: "
    text += "FVU 0.25 (-0.5 to 1e-2), 1,021 tokens"
    assert np.sinh(numbers(text)) == pytest.approx([0.25, -0.5, 0.01, 1021])
    assert numbers(text.replace("Card of", "It is")).tolist() == numbers(text).tolist()


def test_a_moved_curve_is_seen_and_another_word_is_not(tmp_path):
    def drawn(name, last=3.0, title="Loss"):
        figure = matplotlib.figure.Figure()
        figure.subplots().plot([0, 1, 2, 3], [0, 2, 1, last])
        figure.axes[0].set(title=title, ylim=(0, 4))
        figure.savefig(tmp_path / name)
        return digest([tmp_path / name])

    curve = drawn("a.svg")
    assert drawn("b.svg", title="The loss of it all") == curve
    assert not is_close(drawn("c.svg", last=2.9)["coordinates"], curve["coordinates"])


def test_tables_and_tensors_by_name(tmp_path):
    table = pd.DataFrame({"recipe": ["a", "b"], "width": [8, 16], "alive": [True, False], "loss": [0.3, None]})
    table["energy"] = [[1.0, 2.0], [3.0]]
    table.to_parquet(tmp_path / "a.parquet")
    assert digest([tmp_path / "a.parquet"]) == {"alive": [2, 0.707107, 0.5], "loss": [0.3], "energy": [3, 2.16025, 2.0]}
    torch.save({"model_state": {"encoder.weight": torch.ones(2, 2), "b_pre": torch.zeros(2)}}, tmp_path / "a.pt")
    found = digest([tmp_path / "a.pt"])
    assert found["weight"][:2] == [4, 1.0] and found["b_pre"] == [2, 0.0, 0.0]
