"""kill -9 at random moments, of the workflow or of one of its jobs: the same command goes on and ends with the same bits.

`KILL_ROUNDS=20 pytest tests/test_kills.py -s` for longer than a test run should take; KILL_SEED (0) for other moments.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import pandas as pd
import psutil
import yaml
from test_interruption import checkpoints

from workflow import command, small

ROUNDS = int(os.getenv("KILL_ROUNDS", "2"))
LONGEST = 40  # seconds until a kill; a run takes about a minute


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
    """Wait, then kill the workflow with all its jobs, or one job; says what was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    if process.poll() is not None:
        return "nothing: the run had ended"
    running = jobs(psutil.Process(process.pid))
    if running and chosen.random() < 0.5:
        victim = chosen.choice(running)
        try:
            victim.kill()
            what = "a job"
        except psutil.NoSuchProcess:
            what = "nothing: the job had ended"
        process.wait()  # Snakemake tries the job again, or lets the others end and stops
        return what
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "the workflow"


def test_killed_at_random_and_equal_bit_for_bit(finished, tmp_path):
    chosen = random.Random(int(os.getenv("KILL_SEED", "0")))
    expected = checkpoints(finished.folder / "results")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(small(), sort_keys=False))
    folder, kills = tmp_path / "0", 0
    folder.mkdir()
    while kills < ROUNDS:
        same_command = command(folder, config, "results/metrics.parquet")
        process = subprocess.Popen(
            same_command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        killed = kill_after(chosen.uniform(2, LONGEST), process, chosen)
        there = checkpoints(folder / "results")
        print(f"{kills + 1}: killed {killed}, {len(there)} of {len(expected)} checkpoints there", flush=True)
        assert all(expected[name] == content for name, content in there.items())  # whole, at any moment
        kills += not killed.startswith("nothing")
        if process.returncode == 0:  # it had all it needs: a new one
            check_whole(folder, finished, expected)
            shutil.rmtree(folder)
            folder = tmp_path / str(kills)
            folder.mkdir(exist_ok=True)
    ended = subprocess.run(
        command(folder, config, "results/metrics.parquet"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ended.returncode == 0, ended.stdout
    check_whole(folder, finished, expected)


def check_whole(folder, finished, expected) -> None:
    assert checkpoints(folder / "results") == expected
    ours, theirs = (pd.read_parquet(each / "results" / "metrics.parquet") for each in (folder, finished.folder))
    pd.testing.assert_frame_equal(ours, theirs)
    assert not list(folder.rglob("*.partial-*"))
