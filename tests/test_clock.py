"""A clock that jumps: files from next year stop a run with a line that says so; nothing is lost and the bits stay the same."""

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
    done = snakemake(tmp_path, TINY, TABLE, check=False)
    assert done.returncode != 0 and "could indicate a clock skew problem" in done.stdout  # Snakemake's own
    assert checkpoints(tmp_path / "results") == expected
    for path in filter(lambda path: path.exists(), files):
        os.utime(path)  # touch
    snakemake(tmp_path, TINY, TABLE)
    assert checkpoints(tmp_path / "results") == expected
    assert (tmp_path / TABLE).read_bytes() == table
