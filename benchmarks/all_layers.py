"""Capture and training of every layer of a small model: `python -m benchmarks.all_layers [--toy]`.

The same config twice: all in this process, and as the workflow with two cores (a process per job). Preparing the model
and the text is left out of both. The recipe is L1 at its default weight with the preset `quick`: 195 steps of 512 tokens.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.random_model import random_model
from benchmarks.report import cpu, write
from sae_atlas.activations.save import save_activations
from sae_atlas.activations.shard import shard_activations
from sae_atlas.base_models.prepare import prepare
from sae_atlas.config.read import complete_config
from sae_atlas.corpus import tokenize
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.job import as_arguments
from sae_atlas.training.train import train

ROOT = Path(__file__).parent.parent
RECIPE = "l1"


def config_of(layers: int, tokens: int, d_model: int, expansion: int) -> dict:
    sizes = {"hidden_size": d_model, "num_hidden_layers": layers, "num_attention_heads": 4}
    sizes["intermediate_size"] = 4 * d_model
    return random_model(sizes, 128, tokens, 1024) | {
        "training": {"tokens": tokens},
        "recipes": {RECIPE: {"architecture": "relu", "preset": "quick", "expansion": expansion}},
        "evaluation": {"tokens": 1024, "patched_tokens": 1024},
    }


def in_one_process(atlas: Atlas, folder: Path) -> dict[str, float]:
    """Seconds by stage."""
    seconds: dict[str, float] = {}

    def job(stage: str, function, *arguments, **more) -> None:
        cell = {name: more.pop(name) for name in ("recipe", "layer", "snapshot") if name in more}
        settings = atlas.settings(stage, **cell)
        began = time.perf_counter()
        function(*arguments, **as_arguments(settings), **more)
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began

    model, corpus, saved = (folder / name for name in ("model/provenance.json", "corpus.zarr", "saved.zarr"))
    job("prepare_model", prepare, model)
    job("tokenize", tokenize, model, corpus)
    window = {"snapshot": atlas.last}
    job("save_activations", save_activations, model, corpus, saved, layers=atlas.layers, **window)
    for layer in atlas.layers:
        store = folder / f"{layer}.zarr"
        job("shard_activations", shard_activations, saved, store, **window, layer=layer)
        outputs = {"checkpoint": f"{store}.pt", "resume": f"{store}.resume.pt", "curve": f"{store}.parquet"}
        job("train_sae", train, store, threads=2, **outputs, **window, layer=layer, recipe=RECIPE)
    return {stage: seconds[stage] for stage in ("save_activations", "shard_activations", "train_sae")}


def as_workflow(atlas: Atlas, config: dict, folder: Path) -> float:
    """Seconds from the finished corpus to the last checkpoint."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
    command += ["--configfile", file, "--cores", "2"]
    text = [f"results/corpus/{config['corpus']['name']}.zarr"]
    every = [f"results/checkpoints/{RECIPE}/sae_layer{layer:02d}_{atlas.last}.pt" for layer in atlas.layers]
    subprocess.run([*command, "--", *text], check=True, capture_output=True)
    began = time.perf_counter()
    subprocess.run([*command, "--", *every], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes, seconds; writes nothing unless --out is given")
    parser.add_argument("--out", type=Path, help="folder of all_layers.json; default benchmarks/")
    chosen = parser.parse_args()
    config = config_of(2, 4096, 16, 4) if chosen.toy else config_of(24, 100_000, 64, 32)
    atlas = Atlas(complete_config(config, "neox"))
    with tempfile.TemporaryDirectory() as folder:
        stages = in_one_process(atlas, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        workflow = as_workflow(atlas, config, Path(folder))
    found = {
        "work": f"{len(atlas.layers)} layers, {atlas.tokens:,} tokens, "
        f"d {config['base_model']['sizes']['hidden_size']}, L1, expansion {atlas.expansion(RECIPE)}",
        "machine": f"{cpu()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
        "seconds": {"one process": sum(stages.values()), **stages, "workflow, 2 cores": workflow},
    }
    print(json.dumps(found, indent=1))
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    write(out, "all_layers", found)


if __name__ == "__main__":
    main()
