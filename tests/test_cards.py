"""A model card says what was measured, holds the weights that were measured, and cannot be broken by a name."""

import re
import subprocess
import sys

import pyarrow as pa
import pytest
from published import DAY, RECIPES, Run, headings, template

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, sha256, write_json
from sae_atlas.io.tables import write_table
from sae_atlas.metrics.labels import name_of
from sae_atlas.publish.cards.markdown import number
from sae_atlas.saes.sae import Sae
from workflow import ROOT


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_card_has_every_line_of_the_template(tmp_path, recipe):
    run = Run(tmp_path, recipe)
    card = (run.card() / "model_card.md").read_text()
    assert card.startswith(f"# Model Card: {run.name}\n")
    assert headings(card) == headings(template())
    for label in re.findall(r"^- ([A-Z][A-Za-z0-9 ]+):", template(), re.MULTILINE):
        assert re.search(rf"^- {label}: \S", card, re.MULTILINE), label
    assert "[Value]" not in card and "None" not in card and "nan" not in card


def test_a_recipe_without_l1_says_what_makes_it_sparse(tmp_path):
    card = (Run(tmp_path).card() / "model_card.md").read_text()
    assert "- L1 Coefficient: none (TopK, k = 3 latents per token)\n" in card


def test_a_transcoder_that_no_other_library_loads_says_what_writes_it(tmp_path):
    card = (Run(tmp_path, "transcoder").card() / "model_card.md").read_text()
    assert "- Architecture: TopK transcoder with a skip connection\n" in card
    assert "- Input Dimension: 8\n- Output Dimension: 6\n" in card
    assert "`sae-atlas export FOLDER safetensors OUT` writes it for other code; SAELens has no TopK transcoder" in card


def test_an_l1_recipe_states_both_conventions(tmp_path):
    card = (Run(tmp_path, "fixed").card() / "model_card.md").read_text()
    assert "- L1 Coefficient: 0.0003 in the convention mean-sum, 1.001 canonical, fixed\n" in card


def test_a_card_shows_every_metric_with_unit_window_and_interval(tmp_path):
    run = Run(tmp_path)
    card = (run.card() / "model_card.md").read_text()
    for row in read_json(run.metrics[1])["metrics"]:
        if row["snapshot"] == "final":
            line = next(line for line in card.splitlines() if line.startswith(f"| {name_of(row['metric'])} |"))
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert cells[1] == number(row["value"])
            assert cells[2] == ("" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}")
            assert cells[3:] == [row["unit"] or "ratio", number(row["held_out_tokens"])]


def test_a_card_says_what_the_tasks_were_measured_on(tmp_path):
    run = Run(tmp_path)
    rows = [
        {
            "layer": 1,
            "snapshot": "final",
            "metric": metric,
            "value": 0.5,
            "low": 0.4,
            "high": 0.6,
            "unit": "",
            "held_out_tokens": 400,
        }
        for metric in ("probing_1", "letter_f1")
    ]
    write_table(tmp_path / "tasks.parquet", pa.Table.from_pylist(rows))
    card = (run.card(further=[tmp_path / "tasks.parquet"]) / "model_card.md").read_text()
    assert "| unit | measured on |" in card and "Topics and ablations are of the end of the train text" in card
    assert f"| {name_of('probing_1')} | 0.5 | 0.4 to 0.6 | ratio | 400 tokens |" in card
    assert f"| {name_of('letter_f1')} | 0.5 | 0.4 to 0.6 | ratio | 400 words |" in card


def test_a_metric_without_an_interval_or_a_value_is_told_without(tmp_path):
    run = Run(tmp_path)
    written = read_json(run.metrics[1])
    for row in written["metrics"]:
        if row["metric"] == "ce_increase":
            row |= {"low": None, "high": None}
        if row["metric"] == "fvu":
            row["value"] = None
    write_json(run.metrics[1], written)
    card = (run.card() / "model_card.md").read_text()
    assert re.search(r"nats per token \([\d,]+ held-out tokens\)", card) and "interval ," not in card
    page = (run.publish() / "README.md").read_text()
    assert re.search(r"\| FVU \| [0-9.]+ \|", page)  # of the other layer


def test_a_share_of_no_loss_is_said_to_say_nothing(tmp_path):
    run = Run(tmp_path)
    assert "says nothing" not in (run.card() / "model_card.md").read_text()
    written = read_json(run.metrics[1])
    for row in written["metrics"]:
        if row["metric"] == "ce_zero":
            row["value"] = 0.1
    write_json(run.metrics[1], written)
    card = (run.card() / "model_card.md").read_text()
    assert "Setting the site to zeros does not raise the loss here" in card and "to its mean" not in card


def test_numbers_are_written_as_people_write_them():
    shown = {9999.6: "10,000", 9999.4: "9999", 0.01234567: "0.01235", 12: "12"}
    assert {value: number(value) for value in shown} == shown


def test_the_config_names_the_hash_of_every_file_and_both_lambdas(tmp_path):
    folder = Run(tmp_path, "fixed").card()
    config = read_json(folder / "config.json")
    others = {path.name: sha256(path) for path in folder.iterdir() if path.name != "config.json"}
    assert others == config["files_sha256"] and len(others) == 4
    assert config["lambda"]["stated"] == 3e-4 and config["lambda"]["convention"] == "mean-sum"
    assert config["lambda"]["canonical"] == 1.0012
    assert config["metrics"]["fvu"]["held_out_tokens"] == 8064
    assert config["records"]["training"]["stage"] == "train_sae"
    assert Sae.load(folder / "model.pt").d_sae == config["d_sae"]


def test_the_same_run_gives_the_same_card_dated_by_its_training(tmp_path):
    run = Run(tmp_path)
    folder = run.card()
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {path.name: path.read_bytes() for path in run.card().iterdir()} == first
    assert "## Date\n2026-03-14\n" in first["model_card.md"].decode()


def test_weights_have_a_time_of_their_own(tmp_path):
    """A hard link would be older than the metrics it is published with, and a workflow would publish it for ever."""
    assert (Run(tmp_path).card() / "model.pt").stat().st_mtime > DAY + 1


def test_an_adaptive_run_that_missed_its_target_says_so(tmp_path):
    card = (Run(tmp_path, "adaptive").card() / "model_card.md").read_text()
    assert "steered to an L0 of 6, which was NOT reached (at the end 7.5 on the training stream)" in card
    assert "did not reach its L0 target" in card


def test_an_annealed_penalty_is_told(tmp_path):
    run = Run(tmp_path, "annealed")
    card = (run.card() / "model_card.md").read_text()
    assert "canonical, fixed; of the latents to a power that falls from 1 to 0.2 over the training" in card
    page = (run.publish() / "README.md").read_text()
    assert "Each term of the sum is to a power, which falls from 1 to 0.2 over the training" in page


def test_a_random_base_model_is_called_what_it_is(tmp_path):
    card = (Run(tmp_path, source="random gpt_neox, seed 0").card() / "model_card.md").read_text()
    assert "weights are random" in card


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("base-1b", "base-2b"),
        ("resid1", "mlp1"),
        ("resid1", "resid0"),
        ("exp4", "exp8"),
        ("2k", "3k"),
        ("topk", "fixed"),
    ],
)
def test_a_name_that_disagrees_with_the_weights_is_refused(tmp_path, part, other):
    run = Run(tmp_path)
    with pytest.raises(AtlasError, match=r"the name says .* Rename or rebuild it"):
        run.card(name=run.name.replace(part, other))


def test_weights_other_than_the_measured_ones_are_refused(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(AtlasError, match=r"layer1_1k.pt: not the checkpoint that .*layer1.json measured"):
        run.card(checkpoint=run.files[1]["1k"])
    run.files[0]["final"] = run.files[1]["final"]
    with pytest.raises(AtlasError, match=r"layer1_final.pt: not the checkpoint"):
        run.publish()


def test_nothing_in_a_config_breaks_a_card(tmp_path):
    evil = "x\n## Fake\n| a | b |\n```\n<script>"
    card = (Run(tmp_path).card(author=evil, text=evil) / "model_card.md").read_text()
    assert headings(card) == headings(template())
    assert "<script>" not in card.replace(r"\<", "")
    assert "\n```" not in card


def test_cards_and_releases_need_no_torch():
    heavy = "{'torch', 'transformers', 'pandas', 'matplotlib', 'zarr', 'numpy'}"
    rooms = "sae_atlas.publish.cards.model_card, sae_atlas.publish.cards.release"
    program = f"import sys, {rooms}; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
