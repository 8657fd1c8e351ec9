"""A clock that jumps: files from next year and last year are what they are, and the bits stay the same."""

import os
import random
import time

from test_full_disk import TINY
from test_interruption import checkpoints

from workflow import snakemake

YEAR = 365 * 24 * 3600
TABLE = "results/metrics.parquet"


def test_files_from_next_year_and_last_year_lose_nothing(tmp_path):
    snakemake(tmp_path, TINY, TABLE)
    expected, table = checkpoints(tmp_path / "results"), (tmp_path / TABLE).read_bytes()
    files, chosen, now = sorted((tmp_path / "results").rglob("*")), random.Random(0), time.time()
    for path in files:
        moved = now + chosen.choice((-YEAR, YEAR))
        os.utime(path, (moved, moved))
    assert "Nothing to be done" in snakemake(tmp_path, TINY, TABLE).stdout
    (tmp_path / "results/metrics/topk/layer00.json").unlink()
    (tmp_path / TABLE).unlink()
    measured = (TABLE, "results/metrics/topk/layer00.json")
    done = snakemake(tmp_path, TINY, *measured, check=False)  # from a checkpoint of next year
    assert done.returncode != 0 and "could indicate a clock skew problem" in done.stdout  # Snakemake's own
    assert checkpoints(tmp_path / "results") == expected
    for path in filter(lambda path: path.exists(), files):
        os.utime(path)  # touch
    snakemake(tmp_path, TINY, *measured)
    assert checkpoints(tmp_path / "results") == expected
    assert (tmp_path / TABLE).read_bytes() == table
