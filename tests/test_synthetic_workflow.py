"""Synthetic rows through the workflow: measured against their truth, in tables, figures, cards and the page."""

import itertools

import numpy as np
import pytest
import torch

import sae_atlas
from sae_atlas.commands.summary import summarise
from sae_atlas.config.read import complete_config
from sae_atlas.io.provenance import read_record
from sae_atlas.io.tables import read_table
from sae_atlas.metrics.labels import GROUPS, METRICS, OF_EVALUATION, OF_PREDICTIONS, OF_THE_TRUTH
from sae_atlas.stages.atlas import Atlas
from sae_atlas.synthetic.truth import read_truth
from workflow import SMALL, changed, planned, snakemake

RECIPE = {"expansion": 2, "k": 3, "batch": 64, "warmup": 2, "decay": 0, "learning_rate": 0.01}
CONFIG = {
    "base_model": {
        "name": "world",
        "source": "synthetic",
        "generator": {
            "d": 16,
            "features": 32,
            "l0": 3,
            "layers": 2,
            "hierarchy": {"roots": 3, "children": 3},
        },
    },
    "corpus": {"name": "rows", "source": "rows", "tokens": 6000, "held_out_tokens": 500},
    "activations": {"shard_rows": 512, "chunk_rows": 128},
    "training": {"tokens": 6000, "snapshots": [3000]},
    "recipes": {
        "topk": {"architecture": "topk", **RECIPE},
        "batch_topk": {"architecture": "batch_topk", **RECIPE},
    },
    "evaluation": {"tokens": 500},
}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    snakemake(folder, CONFIG)
    return folder


def test_it_is_finished_and_its_truth_is_in_every_table(atlas):
    assert planned(atlas, CONFIG) == []
    table = read_table(atlas / "results" / "metrics.parquet")
    assert set(table.metric) == set(OF_EVALUATION | OF_THE_TRUTH) - set(OF_PREDICTIONS)
    cells = table[table.metric == "f1"]
    assert len(cells) == 2 * 2 * 2 and (cells.low < cells.value).all() and (cells.value < cells.high).all()
    assert set(cells.held_out_tokens) == {500} and set(cells.snapshot) == {"3k", "final"}


def test_its_numbers_are_those_of_the_checkpoint_on_the_held_out_rows(atlas):
    table = read_table(atlas / "results" / "metrics.parquet").set_index(["recipe", "layer", "snapshot", "metric"])
    held_out = np.random.default_rng(0).permutation(6500)[:500]  # of the corpus's seed
    for recipe, layer in itertools.product(CONFIG["recipes"], (0, 1)):
        sae = sae_atlas.load_sae(atlas / f"results/checkpoints/{recipe}/sae_layer{layer:02d}_6k.pt")
        x = np.load(atlas / f"results/base_model/rows/layer{layer:02d}.npy")[held_out]
        truth = read_truth(atlas / "results" / "base_model", layer)
        with torch.no_grad():
            fires = (sae.encode(torch.from_numpy(x)) != 0).numpy()
        cosines = torch.nn.functional.normalize(sae.W_dec).numpy() @ truth.directions.T
        active = truth.active(held_out).toarray()[:, np.abs(cosines).argmax(axis=1)] > 0
        right = (fires & active).sum(axis=0)
        recall = np.mean(right / np.maximum(active.sum(axis=0), 1))
        value = table.loc[(recipe, layer, "final")].value
        assert value["recall"] == pytest.approx(recall, abs=1e-9) and value["l0"] == pytest.approx(fires.sum() / 500)
        assert value["l0_of_true"] == pytest.approx(fires.sum() / truth.active(held_out).nnz)
    assert table.value.xs("mcc", level="metric").between(0.2, 1).all()


def test_cards_figures_page_and_summary_have_them(atlas):
    svg = (atlas / "results/figures/topk/2_metrics_heatmap.svg").read_text(encoding="utf-8")
    page = (atlas / "results" / "index.html").read_text(encoding="utf-8")
    card = (atlas / "models/sae/world_activations1_exp2_6k_topk/model_card.md").read_text(encoding="utf-8")
    for metric in GROUPS["Known truth"]:
        assert METRICS[metric].name in svg and METRICS[metric].name in page, metric
    for metric in OF_THE_TRUTH.values():
        assert f"| {metric.name} |" in card
    assert "32 true features" in card and "saved" not in card
    assert "synthetic activations" in page and "saved activations" not in page
    assert "MCC 0." in summarise(atlas) and "firing F1" in summarise(atlas)
    drawn = (atlas / "results/figures/topk/11_known_truth.svg").read_text(encoding="utf-8")
    assert "<!-- batch_topk -->" in drawn and METRICS["f1"].name in drawn
    assert all(word in drawn for word in METRICS["parent_absorption"].name.split())  # on several lines


def test_a_changed_world_runs_everything_again_and_a_changed_recipe_itself_alone(atlas):
    other = changed(
        {**CONFIG, "recipes": {**CONFIG["recipes"]}}, {"recipes.topk": {**CONFIG["recipes"]["topk"], "k": 4}}
    )
    jobs = planned(atlas, other)
    assert "known truth: topk, layer 01" in jobs and not [job for job in jobs if "batch_topk, layer" in job]
    generator = CONFIG["base_model"]["generator"] | {"noise": 0.1}
    jobs = planned(atlas, {**CONFIG, "base_model": CONFIG["base_model"] | {"generator": generator}})
    assert "base model: prepare synthetic" in jobs and "known truth: batch_topk, layer 00" in jobs


def test_further_measurements_are_inputs_of_what_shows_them_and_of_nothing_else(atlas):
    """Atlases that ask for none keep the inputs, and so the identities, that they had."""
    of_truth, plain = Atlas(complete_config(CONFIG, "config.yaml")), Atlas(complete_config(SMALL, "config.yaml"))
    layers = ("layer00", "layer01")
    truth = {f"{layer} known_truth" for layer in layers}
    assert set(of_truth.inputs("collect_metrics", recipe="topk")) == {*layers, *truth}
    assert set(of_truth.inputs("plot_metrics_heatmap", recipe="topk")) == {*layers, *truth}
    assert "known_truth" in of_truth.inputs("model_card", recipe="topk", layer=0)
    assert set(of_truth.inputs("plot_feature_density", recipe="topk")) == {*layers}
    recipe = plain.recipes[0]
    evaluated = {f"layer{layer:02d}" for layer in plain.layers}
    assert set(plain.inputs("collect_metrics", recipe=recipe)) == evaluated
    assert set(plain.inputs("model_card", recipe=recipe, layer=plain.layers[0])) == {"base_model", "corpus", "metrics"}
    record = read_record(atlas / "results/base_model/provenance.json")
    assert record["identity"] == of_truth.identity("prepare_model") and record["settings"]["rows"] == 6500
