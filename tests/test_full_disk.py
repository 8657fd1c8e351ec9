"""A disk that fills: one clear line, nothing half-written, and the same command goes on when there is room."""

import os
import subprocess

import pytest

from workflow import small, snakemake


@pytest.fixture
def tiny_disk(tmp_path):
    """A folder whose `results` lie on a disk of 2 MB."""
    results = tmp_path / "results"
    results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", str(results)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield tmp_path
    subprocess.run(["umount", "-l", str(results)], check=True)


STORE = "results/stores/layer00/1k.zarr"
WIDE = small(**{"base_model.sizes.hidden_size": 128, "activations.dtype": "float32"})


def test_a_full_disk_is_one_line_and_the_run_goes_on(tiny_disk):
    done = snakemake(tiny_disk, WIDE, STORE, check=False)
    assert done.returncode != 0
    assert "the disk is full. Nothing is lost; mend it and run the same command again." in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tiny_disk / STORE).exists()
    subprocess.run(["mount", "-o", "remount,size=200M", str(tiny_disk / "results")], check=True)
    snakemake(tiny_disk, WIDE, STORE)
    assert (tiny_disk / STORE / "zarr.json").is_file()
