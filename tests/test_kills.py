"""kill -9 at random moments, of the workflow or of one of its jobs: the same command goes on and ends with the same bits.

20 times, or KILL_ROUNDS; KILL_SEED (0) gives other moments. `make test` kills at three moments, in tests/test_interruption.py.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from test_interruption import checkpoints

from workflow import command, small

ROUNDS = int(os.getenv("KILL_ROUNDS", "20"))
TABLE = "results/metrics.parquet"
SMALL = small(**{"activations.layers": [0, 1], "activations.max_live_stores": 2})
del SMALL["recipes"]["l1"]


def start(folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    arguments = command(folder, folder / "config.yaml", TABLE)
    with (folder / "output").open("w") as output:
        return subprocess.Popen(arguments, start_new_session=True, stdout=output, stderr=subprocess.STDOUT)


def jobs(run: psutil.Process) -> list[psutil.Process]:
    """Processes that do the work of a job: those below the workflow's own that run a script."""
    found = []
    for process in run.children(recursive=True):
        try:
            if any(".snakemake/scripts" in word for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_after(seconds: float, process: subprocess.Popen, chosen: random.Random) -> str:
    """Wait, then kill the workflow with all its jobs, or one job; says what was killed, or `nothing`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    if process.poll() is not None:
        return "nothing"
    running = jobs(psutil.Process(process.pid))
    if running and chosen.random() < 0.5:
        victim = chosen.choice(running)
        what = "a job"
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            what = "nothing"
        process.wait()  # Snakemake tries the job again, or lets the others end and stops
        return what
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "the workflow"


def finish(folder: Path) -> tuple[dict[str, bytes], pd.DataFrame]:
    """Run to the end; the checkpoints and the table of all metrics."""
    ended = start(folder)
    assert ended.wait() == 0, (folder / "output").read_text()
    assert not list(folder.rglob("*.partial-*"))
    return checkpoints(folder / "results"), pd.read_parquet(folder / TABLE)


def kill_once(folder: Path, longest: float, expected: tuple, chosen: random.Random) -> bool:
    """Start or go on, and kill; False if there was nothing to kill. What is there must be whole and right at any moment."""
    process = start(folder)
    killed = kill_after(chosen.uniform(0.2, longest), process, chosen)
    there = checkpoints(folder / "results")
    print(f"killed {killed} with {len(there)} of {len(expected[0])} checkpoints there", flush=True)
    assert all(expected[0][name] == content for name, content in there.items())
    if process.returncode == 0:  # nothing left to kill: it ended as it should, and a new one begins
        check_same(finish(folder), expected)
        shutil.rmtree(folder)
    return killed != "nothing"


def check_same(found: tuple, expected: tuple) -> None:
    assert found[0] == expected[0]
    pd.testing.assert_frame_equal(found[1], expected[1])


@pytest.mark.long
def test_killed_at_random_and_equal_bit_for_bit(tmp_path):
    chosen = random.Random(int(os.getenv("KILL_SEED", "0")))
    begun = time.monotonic()
    expected = finish(tmp_path / "whole")
    longest = time.monotonic() - begun
    kills = 0
    while kills < ROUNDS:
        kills += kill_once(tmp_path / "killed", longest, expected, chosen)
    check_same(finish(tmp_path / "killed"), expected)
