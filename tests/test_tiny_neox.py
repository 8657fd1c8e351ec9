"""End to end: a random GPT-NeoX of 24 layers, every stage, as `make run CONFIG=config/tiny-neox.yaml`."""

import json

import pandas as pd
import pytest
import yaml

from sae_atlas.saes.sae import Sae
from workflow import ROOT, snakemake

CONFIG = ROOT / "config" / "tiny-neox.yaml"


def test_some_layers_and_snapshots(tmp_path):
    config = yaml.safe_load(CONFIG.read_text())
    config["activations"]["layers"] = [0, 23]
    config["training"] = {"tokens": "8k", "snapshots": ["4k"]}
    snakemake(tmp_path, config)
    check(tmp_path, [0, 23], ["4k", "final"], "8k")


@pytest.mark.long
def test_all_layers_and_snapshots(tmp_path):
    """24 layers x 6 snapshots."""
    snakemake(tmp_path, CONFIG)
    check(tmp_path, range(24), ["4k", "8k", "12k", "16k", "20k", "final"], "24k")


def check(tmp_path, layers, snapshots, tokens):
    release = tmp_path / "models" / "releases" / "tiny-neox-saes-x4-batchtopk-8"
    names = {f"sae_layer{layer:02d}_{label}.pt" for layer in layers for label in snapshots}
    assert {path.name for path in release.glob("*.pt")} == names
    table = pd.read_parquet(tmp_path / "results" / "metrics.parquet")
    assert table.groupby("metric").size().eq(len(layers) * len(snapshots)).all()
    fvu = table[table.metric == "fvu"].pivot(index="layer", columns="snapshot", values="value")
    assert (fvu["final"] < fvu["4k"]).all()  # every layer learns
    sae = Sae.load(release / "sae_layer23_final.pt")
    assert (sae.d_in, sae.d_sae) == (64, 256)
    config = json.loads((tmp_path / f"models/sae/tiny-neox_resid23_exp4_{tokens}_batchtopk-8/config.json").read_text())
    assert config["layer"] == 23
