"""A run killed at any moment goes on with the same command and ends with the same bits."""

import os
import signal
import subprocess
import time

import yaml

from workflow import command, small

MOMENTS = {  # what is there when the run is killed
    "while stores are made": lambda results: any(results.glob("stores/layer*/*.zarr")),
    "in the first window": lambda results: len(checkpoints(results)) >= 3,
    "in a later window": lambda results: len(checkpoints(results)) >= 10,
}


def checkpoints(results) -> dict[str, bytes]:
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in results.glob("checkpoints/*/sae_layer*.pt")
        if ".resume" not in path.name
    }


def test_killed_three_times_and_equal_bit_for_bit(finished, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(small(), sort_keys=False))
    last = [
        f"results/checkpoints/{recipe}/sae_layer0{layer}_3k.resume.pt"
        for recipe in ("topk", "l1")
        for layer in range(3)
    ]
    same_command = command(tmp_path, config, *last)
    results = tmp_path / "results"
    for moment in MOMENTS.values():
        process = subprocess.Popen(
            same_command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not moment(results):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = subprocess.run(same_command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    expected = checkpoints(finished.folder / "results")
    assert len(expected) == 18
    assert checkpoints(results) == expected


def test_two_runs_at_once_are_refused(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(small(), sort_keys=False))
    target = "results/base_model/provenance.json"
    first = subprocess.Popen(command(tmp_path, config, target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "results" / ".lock").exists():
        time.sleep(0.02)
    second = subprocess.run(
        command(tmp_path, config, target), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert first.wait() == 0
    assert second.returncode != 0
    assert "another run is at work here" in second.stdout
    assert "Traceback" not in second.stdout
