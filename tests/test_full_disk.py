"""A disk that fills or is read-only: one clear line, nothing half-written, and the same command goes on when it is mended."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from test_interruption import checkpoints

from workflow import small, snakemake, take

TINY = small(
    **{
        "activations.layers": [0],
        "training": {"tokens": "2k", "snapshots": ["1k"]},
        "activations.max_live_stores": 1,
    }
)
del TINY["recipes"]["l1"]
LINE = "Nothing is lost; mend it and run the same command again."
TINY["features"] = {"tokens": "1k", "contexts": 3, "window": 8}
STAGES = {
    "prepare_model", "tokenize", "save_activations", "shard_activations", "train_sae", "save_held_out", "evaluate_sae",
    "collect_metrics", "plot_metrics_heatmap", "model_card", "index", "release", "page", "save_text", "top_contexts",
    "contexts_of_matches", "evolution", "score_latents", "name_latents", "explorer",
}  # fmt: skip
SOME = TINY | {"training": {"tokens": "1k", "snapshots": []}}
SOME_STAGES = {"shard_activations", "train_sae", "evaluate_sae"}  # a folder, a file and what goes on, tables
LAST = "results/checkpoints/topk/sae_layer00_1k.resume.pt"
# Run by Python when a job's process starts: the first job of each of these stages finds the disk full, all others find room,
# so that a figure drawn between a stage's failure and its retry does too.
HOOK = """
import pathlib, re, shutil, subprocess, sys
script = re.search(r"\\S+scripts/tmp\\w+\\.\\w+\\.py", " ".join(sys.orig_argv))
if script:
    found = re.search(r"results/logs/(\\w+)", pathlib.Path(script[0]).read_text(encoding="utf-8"))
    disk, notes = pathlib.Path({disk!r}), pathlib.Path({notes!r})
    assert not list(disk.rglob("*.partial-*")), "left half-written"
    first = found[1] in {stages!r} and not (notes / found[1]).exists()
    (notes / found[1]).touch()
    size = max(shutil.disk_usage(disk).used, 4096) if first else "200M"  # 0 would be no bound at all
    subprocess.run(["mount", "-o", f"remount,size={{size}}", str(disk)], check=True)
"""


class Disk:
    """A small file system that holds `results` and `models` of a folder."""

    def __init__(self, folder: Path):
        self.place, self.folder = folder / "disk", folder / "atlas"
        for part in ("results", "models"):
            (self.folder / part).mkdir(parents=True)
        self.place.mkdir()
        self._mount("-t", "tmpfs", "-o", "size=200M", "tmpfs", str(self.place))
        for part in ("results", "models"):
            (self.place / part).mkdir()
            self._mount("--bind", str(self.place / part), str(self.folder / part))

    def _mount(self, *options: str) -> None:
        if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")

    def make_read_only(self) -> None:
        self._mount("-o", "remount,ro", str(self.place))

    def unmount(self) -> None:
        for place in (self.folder / "results", self.folder / "models", self.place):
            subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path)
    yield made
    made.unmount()


@pytest.mark.parametrize(
    ("stages", "config", "targets"),
    [
        pytest.param(SOME_STAGES, SOME, ["results/metrics/topk/layer00.json", LAST], id="some"),
        pytest.param(STAGES, TINY, [], id="all", marks=pytest.mark.long),
    ],
)
def test_a_disk_that_fills_is_one_line_and_the_run_goes_on(
    disk, finished, tmp_path, monkeypatch, stages, config, targets
):
    hook, notes = tmp_path / "hook", tmp_path / "notes"
    for folder in (hook, notes):
        folder.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK.format(disk=str(disk.place), notes=str(notes), stages=stages))
    monkeypatch.setenv("PYTHONPATH", str(hook))
    if "prepare_model" not in stages:  # nor any of those that do not depend on the layers
        take(finished.folder, disk.folder, "base_model", "corpus", "held_out.zarr")
    stopped = snakemake(disk.folder, config, "--cores", "1", *targets, check=False, warm=False)
    assert stopped.returncode != 0
    went_on = snakemake(disk.folder, config, "--cores", "1", "--retries", "1", *targets, warm=False)
    told, *rest = re.split(r"^Error in rule (\w+):$", stopped.stdout + went_on.stdout, flags=re.MULTILINE)
    rules, before = rest[::2], [told, *rest[1::2]]
    assert sorted(rules) == sorted(stages)
    for rule, text in zip(rules, before, strict=False):
        assert f"the disk is full. {LINE}" in text, f"{rule}: {text}"
    assert "Traceback" not in stopped.stdout + went_on.stdout
    assert not list(disk.place.rglob("*.partial-*"))
    ours, undisturbed = checkpoints(disk.folder / "results"), checkpoints(finished.folder / "results")
    assert len(ours) == len(config["training"]["snapshots"]) + 1 and ours.items() <= undisturbed.items()
    for note in notes.iterdir():  # of all stages the training alone finds the disk full once more
        note.unlink()
    for stage in stages - {"train_sae"}:
        (notes / stage).touch()
    again = snakemake(disk.folder, config, "--cores", "1", "--forcerun", "train_sae", *targets, check=False, warm=False)
    assert again.returncode != 0 and "Error in rule train_sae" in again.stdout
    assert checkpoints(disk.folder / "results") == ours
    assert "Nothing to be done" in snakemake(disk.folder, config, *targets[:1]).stdout


def test_what_is_read_only_is_read_and_not_written(disk):
    target = "results/base_model/provenance.json"
    snakemake(disk.folder, TINY, target)
    disk.make_read_only()
    assert "Nothing to be done" in snakemake(disk.folder, TINY, target).stdout
    done = snakemake(disk.folder, TINY, "results/corpus/wikipedia-introductions.zarr/zarr.json", check=False)
    assert done.returncode != 0
    assert "cannot be written (Read-only file system). Nothing is lost; mend it and run again." in done.stdout
    assert "Traceback" not in done.stdout, done.stdout
