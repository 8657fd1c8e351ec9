"""A clock that jumps: files from next year and last year are what they are, and the bits stay the same."""

import os
import random
import shutil
import time

from test_interruption import checkpoints

from workflow import small, snakemake

YEAR = 365 * 24 * 3600
TABLE = "results/metrics.parquet"


def test_files_from_next_year_and_last_year_lose_nothing(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "atlas")
    expected, table = checkpoints(folder / "results"), (folder / TABLE).read_bytes()
    files, chosen, now = sorted((folder / "results").rglob("*")), random.Random(0), time.time()
    for path in files:
        moved = now + chosen.choice((-YEAR, YEAR))
        os.utime(path, (moved, moved))
    assert "Nothing to be done" in snakemake(folder, small(), TABLE).stdout
    (folder / "results/metrics/topk/layer00.json").unlink()
    (folder / TABLE).unlink()
    measured = (TABLE, "results/metrics/topk/layer00.json")
    done = snakemake(folder, small(), *measured, check=False)  # from checkpoints of next year
    assert done.returncode != 0 and "could indicate a clock skew problem" in done.stdout  # Snakemake's own
    assert checkpoints(folder / "results") == expected
    for path in filter(lambda path: path.exists(), files):
        os.utime(path)  # touch
    snakemake(folder, small(), *measured)
    assert checkpoints(folder / "results") == expected
    assert (folder / TABLE).read_bytes() == table
