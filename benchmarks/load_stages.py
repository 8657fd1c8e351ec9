"""One stage of a small atlas in this process: `python -m benchmarks.load_stages FOLDER STAGE` prints its seconds and memory.

The folder holds config.yaml and what the stages before it left. The first layer, the only recipe, the only snapshot: the
others cost the same. `run_stage` starts the process; its peak memory is its own, from the first import to the end.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from sae_atlas.config.read import read_config
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.job import as_arguments

ROOT = Path(__file__).parent.parent
THREADS = 2
FEATURES = ("contexts", "features", "documents", "raw")  # tables of top_contexts


def run_stage(folder: Path, stage: str) -> dict:
    """{seconds, start_mb, peak_mb} of the stage in a process of its own, its start not among the seconds."""
    command = [sys.executable, "-m", "benchmarks.load_stages", str(folder), stage]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{stage} in {folder} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def write_config(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def measure(folder: Path, stage: str) -> dict:
    """The same in this process, whose peak may be that of what it did before."""
    import torch  # every stage but a few needs it: its memory is not what is measured

    torch.set_num_threads(THREADS)
    at = _Stages(folder)
    work: Callable = getattr(at, stage)()
    start, began = _memory("VmRSS"), time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - began, "start_mb": start, "peak_mb": _memory("VmHWM")}


def _memory(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at the most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


class _Stages:
    """A method per stage: imports what it needs and returns the work."""

    def __init__(self, folder: Path):
        self.atlas = Atlas(read_config(folder / "config.yaml"))
        self.layers, self.last, self.recipe = self.atlas.layers, self.atlas.last, self.atlas.recipes[0]
        self.cell = {"recipe": self.recipe, "layer": self.layers[0]}
        self.path = lambda name: folder / name
        self.model, self.corpus = self.path("model/provenance.json"), self.path("corpus.zarr")

    def prepare_model(self):
        from sae_atlas.base_models.prepare import prepare

        settings = self.atlas.settings("prepare_model")
        return lambda: prepare(self.model, **settings)

    def tokenize(self):
        from sae_atlas.corpus import tokenize

        settings = self.atlas.settings("tokenize")
        return lambda: tokenize(self.model, self.corpus, **settings)

    def save_activations(self):
        from sae_atlas.activations.save import save_activations

        settings = self.atlas.settings("save_activations", snapshot=self.last)
        return lambda: save_activations(
            self.model, self.corpus, self.path("saved.zarr"), layers=self.layers[:1], **settings
        )

    def shard_activations(self):
        from sae_atlas.activations.shard import shard_activations

        settings = self.atlas.settings("shard_activations", snapshot=self.last, layer=self.layers[0])
        return lambda: shard_activations(self.path("saved.zarr"), self.path("store.zarr"), **as_arguments(settings))

    def train_sae(self):
        from sae_atlas.training.train import train

        settings = self.atlas.settings("train_sae", snapshot=self.last, **self.cell) | {"threads": THREADS}
        made = {"checkpoint": "sae.pt", "resume": "sae.resume.pt", "curve": "curve.parquet"}
        outputs = {name: self.path(file) for name, file in made.items()}
        return lambda: train(self.path("store.zarr"), **outputs, **settings)

    def save_held_out(self):
        from sae_atlas.metrics.held_out import save_held_out

        settings = self.atlas.settings("save_held_out")
        return lambda: save_held_out(
            self.model, self.corpus, self.path("held_out.zarr"), layers=self.layers[:1], **settings
        )

    def evaluate_sae(self):
        from sae_atlas.metrics.evaluate import evaluate

        settings = self.atlas.settings("evaluate_sae", **self.cell)
        tables = [self.path(f"metrics{name}") for name in (".parquet", "_latents.parquet", "_blocks.parquet", ".json")]
        held_out = self.path("held_out.zarr") / f"layer{self.layers[0]:02d}"
        snapshot = self.atlas.published(self.last)
        return lambda: evaluate(held_out, self.model, [self.path("sae.pt")], [snapshot], *tables, **settings)

    def save_text(self):
        from sae_atlas.activations.save import save_activations

        settings = self.atlas.settings("save_text")
        return lambda: save_activations(
            self.model, self.corpus, self.path("text.zarr"), layers=self.layers[:1], **settings
        )

    def top_contexts(self):
        from sae_atlas.features.top_contexts import top_contexts

        settings = self.atlas.settings("top_contexts", **self.cell)
        tables = [self.path(f"{name}.parquet") for name in FEATURES]
        text = self.corpus, self.path("text.zarr")
        return lambda: top_contexts(*text, self.model, self.path("sae.pt"), *tables, split="train", **settings)

    def score_latents(self):
        from sae_atlas.features.scores import score_latents

        settings = self.atlas.settings("score_latents", **self.cell)
        tables = [self.path(f"{name}.parquet") for name in ("documents", "raw", "features")]
        made = [self.path(f"{name}.parquet") for name in ("scores", "probes")]
        return lambda: score_latents(*tables, self.corpus, self.model, *made, **settings)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
