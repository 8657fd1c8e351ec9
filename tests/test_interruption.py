"""A run killed at any moment goes on with the same command and ends with the same bits."""

import os
import shutil
import signal
import subprocess
import time

import yaml

from workflow import command, small, snakemake, take

LONG = "results/checkpoints/topk/sae_layer00_2k.resume.pt"
MOMENTS = {  # what is there when the run is killed
    "while stores are made": lambda results: any(results.glob("stores/layer*/*.zarr")),
    "in the first window": lambda results: len(checkpoints(results)) >= 2,
    "in a later window": lambda results: len(checkpoints(results)) >= 5,
}


def checkpoints(results) -> dict[str, bytes]:
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in results.glob("checkpoints/*/sae_layer*.pt")
        if ".resume" not in path.name
    }


def test_killed_three_times_and_equal_bit_for_bit(finished, tmp_path):
    config = tmp_path / "config.yaml"
    some = small(**{"activations.layers": [0, 1], "training": {"tokens": "2k", "snapshots": ["1k"]}})
    config.write_text(yaml.safe_dump(some, sort_keys=False))
    last = [
        f"results/checkpoints/{recipe}/sae_layer0{layer}_2k.resume.pt"
        for recipe in ("topk", "l1")
        for layer in range(2)
    ]
    same_command = command(tmp_path, config, *last, warm=True)
    results = take(finished.folder, tmp_path, "base_model", "corpus") / "results"
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
    ours, undisturbed = checkpoints(results), checkpoints(finished.folder / "results")
    assert len(ours) == 8 and ours.items() <= undisturbed.items()


def test_stopped_by_either_signal_and_equal_bit_for_bit(finished, tmp_path):
    """As a cluster's preemption (SIGTERM) and Ctrl-C of `make run` (SIGINT) do it: the whole group of processes is told."""
    config = small(**{"activations.layers": [0], "training": {"tokens": "2k", "snapshots": ["1k"]}})
    config["recipes"] = {"topk": config["recipes"]["topk"] | {"expansion": 128, "batch": 8}}  # long enough to be hit
    take(finished.folder, tmp_path / "run", "base_model", "corpus")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for snapshot, number in (("1k", signal.SIGTERM), ("2k", signal.SIGINT)):
        output = stop_in_training(tmp_path, snapshot, number)
        assert "the same job goes on from there" in output and "Traceback" not in output, output
        assert not (tmp_path / "run" / "results" / "checkpoints" / "topk" / f"sae_layer00_{snapshot}.pt").exists()
        if snapshot == "1k":  # from here a second folder goes on undisturbed
            shutil.copytree(tmp_path / "run", tmp_path / "whole", ignore=shutil.ignore_patterns("*.interrupted"))
    for folder in ("run", "whole"):
        snakemake(tmp_path / folder, tmp_path / "config.yaml", LONG, warm=folder == "whole")
    log = "results/logs/train_sae/topk/layer00_2k.log"
    assert "going on after step" in (tmp_path / "run" / log).read_text()
    assert "going on after step" not in (tmp_path / "whole" / log).read_text()
    expected = checkpoints(tmp_path / "whole" / "results")
    assert checkpoints(tmp_path / "run" / "results") == expected and len(expected) == 2


def stop_in_training(folder, snapshot: str, number: int) -> str:
    """Start or go on, and send the signal to all processes once the SAE is trained to this snapshot; what was printed."""
    log = folder / "run" / "results" / "logs" / "train_sae" / "topk" / f"layer00_{snapshot}.log"
    process = subprocess.Popen(
        command(folder / "run", folder / "config.yaml", LONG, warm=number == signal.SIGINT),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell runs in the background
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while not (log.exists() and "training:" in log.read_text()):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)  # seconds: it does not train on to the end first
    assert process.returncode != 0
    return output


def test_two_runs_at_once_are_refused(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(small(), sort_keys=False))
    target = "results/base_model/provenance.json"
    first = subprocess.Popen(command(tmp_path, config, target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "results" / ".lock").exists():
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)  # or a slow machine starts the second when the first has ended
    second = subprocess.run(
        command(tmp_path, config, target), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert second.returncode != 0
    assert "another run is at work here" in second.stdout
    assert "Traceback" not in second.stdout
