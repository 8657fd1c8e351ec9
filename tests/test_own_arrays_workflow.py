"""Activations saved elsewhere through the workflow: measured without a model, named and shown by their rows."""

import base64
import gzip
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import saved
import torch
import yaml

import sae_atlas
from sae_atlas.__main__ import main
from sae_atlas.commands.latents import describe
from sae_atlas.commands.summary import summarise
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json
from sae_atlas.io.tables import read_table
from sae_atlas.metrics.labels import OF_PREDICTIONS, OF_THE_WHOLE, OF_TOKENS
from workflow import planned, snakemake

NAMES = [f"toy-vit_activations{layer}_exp1_3200_{recipe}" for layer in saved.LAYERS for recipe in ("topk", "relu")]


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    saved.write(folder)
    config = saved.config()
    snakemake(folder, config)
    return folder, config


def data(folder, key: str):
    """A file of the explorer's data."""
    text = (folder / "results" / "explorer" / "data" / f"{key}.js").read_text(encoding="utf-8")
    return json.loads(gzip.decompress(base64.b64decode(text.rpartition('","')[2].rstrip('");\n'))))


def test_it_is_finished_and_published(atlas):
    folder, config = atlas
    assert planned(folder, config) == []
    assert {path.name for path in (folder / "models" / "sae").iterdir() if path.is_dir()} == set(NAMES)
    for recipe in config["recipes"]:
        assert (folder / "models" / "releases" / f"toy-vit-saes-x1-{recipe}" / "sae_layer05_1600.pt").is_file()
        drawn = {path.stem for path in (folder / "results" / "figures" / recipe).glob("*.png")}
        assert drawn >= {"1_training_curves", "2_metrics_heatmap", "3_snapshot_convergence", "6_pareto"}


def test_fvu_is_that_of_the_checkpoint_on_the_held_out_rows(atlas):
    folder, config = atlas
    corpus = config["corpus"]
    order = np.random.default_rng(0).permutation(saved.ROWS)
    held_out = order[: config["evaluation"]["tokens"]]
    table = read_table(folder / "results" / "metrics.parquet")
    for recipe in config["recipes"]:
        for layer in saved.LAYERS:
            for snapshot, file in (("1600", "1600"), ("final", "3200")):
                sae = sae_atlas.load_sae(folder / f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{file}.pt")
                x = torch.from_numpy(saved.planted(layer)[held_out])
                with torch.no_grad():
                    by_hand = float((x - sae(x)).square().sum() / (x - x.mean(dim=0)).square().sum())
                cell = "recipe == @recipe and layer == @layer and snapshot == @snapshot and metric == 'fvu'"
                row = table.query(cell).iloc[0]
                assert row.value == pytest.approx(by_hand, rel=1e-4), (recipe, layer, snapshot)
                assert row.low < row.value < row.high and row.held_out_tokens == 150
    assert corpus["held_out_tokens"] == 200


def test_training_read_the_rows_after_the_held_out_ones(atlas):
    folder, _ = atlas
    order = np.random.default_rng(0).permutation(saved.ROWS)
    window = saved.planted(5)[order[200:1800]]  # behind 200 that are held out, up to the first snapshot
    checkpoint = torch.load(folder / "results/checkpoints/topk/sae_layer05_1600.pt", weights_only=True)
    scale = checkpoint["config"]["normaliser"]["scale"]
    spread = np.square(window - window.mean(axis=0)).sum(axis=1).mean()
    assert scale == pytest.approx(spread**-0.5, rel=1e-3)


def test_losses_are_not_measured_and_all_else_is(atlas):
    folder, _ = atlas
    measured = set(read_table(folder / "results" / "metrics.parquet").metric)
    assert measured == {*OF_TOKENS, *OF_THE_WHOLE} and not measured & {*OF_PREDICTIONS}
    said = "not measured"
    pages = {
        "summary": summarise(folder),
        "card": (folder / "models" / "sae" / NAMES[0] / "model_card.md").read_text(encoding="utf-8"),
        "release": (folder / "models/releases/toy-vit-saes-x1-topk/README.md").read_text(encoding="utf-8"),
        "index": (folder / "models" / "sae" / "README.md").read_text(encoding="utf-8"),
        "page": (folder / "results" / "index.html").read_text(encoding="utf-8"),
        "heatmap": (folder / "results/figures/topk/2_metrics_heatmap.svg").read_text(encoding="utf-8"),
        "pareto": (folder / "results/figures/topk/6_pareto.svg").read_text(encoding="utf-8"),
    }
    for name, text in pages.items():
        assert said in text, name
        assert not re.search(r"\bnan\b", text, re.IGNORECASE), name


def test_latents_are_named_and_shown_by_the_rows_that_hold_their_feature(atlas):
    folder, _ = atlas
    present, texts = saved.present(), saved.texts()
    decoder = sae_atlas.load_sae(folder / "results/checkpoints/topk/sae_layer05_3200.pt").W_dec
    cosines = torch.nn.functional.normalize(decoder) @ torch.from_numpy(saved.directions(5)).float().T
    names = read_table(folder / "results/features/topk/layer05_names.parquet").set_index("latent")
    contexts = read_table(folder / "results/features/topk/layer05_contexts.parquet")
    columns, (block,) = data(folder, "0/layer05"), [data(folder, "0/layer05_0")]
    tokens, numbers = data(folder, "tokens"), text_of_explorer(folder)
    found = 0
    for latent, (cosine, feature) in enumerate(zip(*cosines.max(dim=1), strict=True)):
        if cosine < 0.95:
            continue
        found += 1
        top = contexts[(contexts.latent == latent) & (contexts.band == "top")]
        rows = [int(row[0]) for row in top.tokens]
        assert len(rows) == 6 and present[rows, feature].all()
        assert names.name[latent] == columns["name"][latent] == f"“{saved.WORDS[feature]}”"
        first = sum(sum(each) for each in block["counts"][:latent])
        shown = [tokens[str(numbers[row])] for row in block["row"][first : first + 6]]
        assert shown == [texts[row] for row in rows]
    assert found >= 4
    assert data(folder, "atlas")["unit"] == "rows" and data(folder, "atlas")["start"] is None
    assert "selectivity" not in columns and "entropy" not in columns


def text_of_explorer(folder) -> np.ndarray:
    """Row number of every context that the explorer holds."""
    text = (folder / "results/explorer/data/text.js").read_text(encoding="utf-8")
    return np.frombuffer(gzip.decompress(base64.b64decode(text.rpartition('","')[2].rstrip('");\n'))), np.uint16)


def test_the_pages_open_and_say_rows(atlas, chromium):
    folder, _ = atlas
    errors, page = [], chromium.new_page(viewport={"width": 1300, "height": 900})
    page.on("pageerror", lambda error: errors.append(str(error)))
    latent = int(read_table(folder / "results/features/topk/layer05_contexts.parquet").latent.iloc[0])
    page.goto(f"file://{folder}/results/explorer/index.html#/topk/5/{latent}")
    page.wait_for_selector("ol.contexts")
    text = page.inner_text("main")
    assert "% of rows" in text and "Promotes" not in text and "topic" not in text and "picture" in text
    page.goto(f"file://{folder}/results/index.html")
    assert "saved activations" in page.inner_text("header") and errors == []
    page.close()


def test_there_is_no_model_to_load_and_exports_name_no_hook_of_one(atlas, tmp_path):
    folder, _ = atlas
    with pytest.raises(AtlasError, match="there is no model here to load"):
        sae_atlas.load_model(folder / "results" / "base_model" / "provenance.json")
    about = read_json(folder / "models" / "sae" / NAMES[0] / "cfg.json")["metadata"]
    assert about["hook_name"] == "blocks.2.activations" and about["site"] == "activations"
    assert not {"model_class_name", "prepend_bos", "hf_hook_name"} & set(about)
    assert main(["export", str(folder / "models" / "sae" / NAMES[0]), "saelens", str(tmp_path / "out")]) == 0
    again = sae_atlas.load_sae(tmp_path / "out")
    assert (again.config["activations"]["site"], again.config["activations"]["layer"]) == ("activations", 2)
    assert main(["sites", str(folder / "config.yaml")]) == 1
    said = describe(folder / "results" / "features" / "topk", 5, 0)
    assert "of rows" in said and "nan" not in said


def test_the_release_makes_itself_again(atlas):
    folder, config = atlas
    made = yaml.safe_load((folder / "models/releases/toy-vit-saes-x1-topk/config.yaml").read_text(encoding="utf-8"))
    assert made["base_model"]["path"] == "layer{layer}.npy"  # the folders of this machine are nobody else's
    whole = made | {key: config[key] for key in ("base_model", "corpus", "features")}
    jobs = planned(folder, whole)
    assert not [job for job in jobs if re.match("(train|activations|store|evaluate)", job)]


def test_a_changed_file_runs_its_layer_again(atlas, tmp_path):
    folder, config = atlas
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    changed = saved.planted(5)
    changed[7, 0] += 1
    np.save(copy / "acts" / "layer05.npy", changed)
    jobs = planned(copy, config)
    assert "train: topk, layer 05, to 1600 tokens" in jobs and "evaluate: relu, layer 05" in jobs
    assert not [job for job in jobs if "layer 02" in job]
    np.save(copy / "acts" / "layer05.npy", saved.planted(5))
    texts = pd.read_csv(copy / "acts" / "rows.csv").replace({"caption": {"picture": "image"}}, regex=True)
    texts.to_csv(copy / "acts" / "rows.csv", index=False)
    jobs = planned(copy, config)
    assert jobs == ["explorer: results/explorer/index.html", *(f"names: {each}, layer 05" for each in ("relu", "topk"))]
