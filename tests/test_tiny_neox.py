"""End to end: 24 layers x 6 snapshots of a random GPT-NeoX, every stage, as `make run CONFIG=config/tiny-neox.yaml`."""

import json

import pandas as pd

from sae_atlas.saes.sae import Sae
from workflow import ROOT, snakemake


def test_all_layers_and_snapshots(tmp_path):
    snakemake(tmp_path, ROOT / "config" / "tiny-neox.yaml")
    release = tmp_path / "models" / "releases" / "tiny-neox-saes-x4-topk-8"
    names = {
        f"sae_layer{layer:02d}_{label}.pt"
        for layer in range(24)
        for label in ("4k", "8k", "12k", "16k", "20k", "final")
    }
    assert {path.name for path in release.glob("*.pt")} == names
    table = pd.read_parquet(tmp_path / "results" / "metrics.parquet")
    assert table.groupby("metric").size().eq(144).all()
    fvu = table[table.metric == "fvu"].pivot(index="layer", columns="snapshot", values="value")
    assert (fvu["final"] < fvu["4k"]).all()  # every layer learns
    sae = Sae.load(release / "sae_layer23_final.pt")
    assert (sae.d_in, sae.d_sae) == (64, 256)
    config = json.loads((tmp_path / "models/sae/tiny-neox_resid23_exp4_24k_topk-8/config.json").read_text())
    assert config["layer"] == 23
