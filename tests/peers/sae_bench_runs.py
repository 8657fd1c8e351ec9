"""Evaluations of sae-bench in its own environment (saebench.py)."""

import os
import subprocess
from pathlib import Path

import torch

from sae_atlas.io.files import read_json
from workflow import ROOT

# jaxtyping refuses sae-bench's own calls: by their annotations a probe has as many items as one class.
SAE_BENCH = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "JAXTYPING_DISABLE": "1"}


def run_saebench(folder: Path, evaluation: str, result: str = "", **arguments) -> dict:
    """What sae-bench writes of an evaluation that is run in `folder`. result: where its JSON is in its folder of results."""
    torch.save({"evaluation": evaluation, "output": "results", **arguments}, folder / "request.pt")
    with (folder / "log.txt").open("w") as log:
        subprocess.run(
            [ROOT / ".saebench/bin/python", Path(__file__).with_name("saebench.py"), "request.pt"],
            env=os.environ | SAE_BENCH,
            cwd=folder,
            stdout=log,
            stderr=log,
            check=True,
        )
    return read_json(folder / "results" / result / "ours_custom_sae_eval_results.json")
