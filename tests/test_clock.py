"""A clock that jumps: times a year ahead or behind make work run again at most, and it ends with the same bits."""

import os
import random
import time

from test_full_disk import TINY
from test_interruption import checkpoints

from workflow import kinds, planned, snakemake

YEAR = 365 * 24 * 3600
TABLE = "results/metrics.parquet"


def test_files_from_next_year_and_last_year_lose_nothing(tmp_path):
    snakemake(tmp_path, TINY, TABLE)
    expected, table = checkpoints(tmp_path / "results"), (tmp_path / TABLE).read_bytes()
    chosen, now = random.Random(0), time.time()
    for path in sorted((tmp_path / "results").rglob("*")):
        moved = now + chosen.choice((-YEAR, YEAR))
        os.utime(path, (moved, moved))
    print(kinds(planned(tmp_path, TINY)))
    snakemake(tmp_path, TINY, TABLE)
    assert checkpoints(tmp_path / "results") == expected
    assert (tmp_path / TABLE).read_bytes() == table
