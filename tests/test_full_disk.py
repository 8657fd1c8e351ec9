"""A disk that fills or is read-only: one clear line, nothing half-written, and the same command goes on when it is mended."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_interruption import checkpoints

from workflow import small, snakemake

TINY = small(
    **{
        "activations.layers": [0],
        "training": {"tokens": "2k", "snapshots": ["1k"]},
        "activations.max_live_stores": 1,
    }
)
del TINY["recipes"]["l1"]
LINE = "Nothing is lost; mend it and run the same command again."
STAGES = {  # what is asked for -> the stage that makes it
    "results/base_model/provenance.json": "prepare_model",
    "results/corpus/wikipedia-introductions.zarr": "tokenize",
    "results/activations/1k_00-00.zarr": "save_activations",
    "results/stores/layer00/1k.zarr": "shard_activations",
    "results/checkpoints/topk/sae_layer00_2k.pt": "train_sae",
    "results/metrics/topk/layer00.parquet": "evaluate_sae",
    "results/metrics.parquet": "collect_metrics",
    "models/releases/small-neox-saes-x4-topk/README.md": "release",
}


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

    def fill(self) -> None:
        """No room is left, not for one byte."""
        used = shutil.disk_usage(self.place).used
        self._mount("-o", f"remount,size={max(used, 4096)}", str(self.place))  # 0 would be no bound at all

    def make_room(self) -> None:
        self._mount("-o", "remount,size=200M", str(self.place))

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


def test_a_disk_that_fills_at_any_stage_is_one_line_and_the_run_goes_on(disk, tmp_path):
    for target, stage in STAGES.items():
        disk.fill()
        done = snakemake(disk.folder, TINY, "--notemp", target, check=False)
        assert done.returncode != 0, stage
        assert f"the disk is full. {LINE}" in done.stdout, f"{stage}: {done.stdout}"
        assert "Traceback" not in done.stdout, f"{stage}: {done.stdout}"
        assert not list(disk.place.rglob("*.partial-*")), stage
        print(f"{stage}: one line", flush=True)
        disk.make_room()
        snakemake(disk.folder, TINY, "--notemp", target)
    whole = tmp_path / "whole"
    whole.mkdir()
    snakemake(whole, TINY, "results/metrics.parquet")
    assert checkpoints(disk.folder / "results") == checkpoints(whole / "results") != {}


def test_what_is_read_only_is_read_and_not_written(disk):
    target = "results/base_model/provenance.json"
    snakemake(disk.folder, TINY, target)
    disk.make_read_only()
    assert "Nothing to be done" in snakemake(disk.folder, TINY, target).stdout
    done = snakemake(disk.folder, TINY, "results/corpus/wikipedia-introductions.zarr", check=False)
    assert done.returncode != 0
    assert "cannot be written (Read-only file system). Nothing is lost; mend it and run again." in done.stdout
    assert "Traceback" not in done.stdout, done.stdout
