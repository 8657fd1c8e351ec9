"""A device that is asked for and absent is one clear line; every job on a machine with GPUs has one of its own."""

import errno
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from models import random_model
from sae_atlas.base_models.load import read_model
from sae_atlas.io import gpu_locks
from sae_atlas.io.devices import gpus_for, name_of, resolve
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import job_log

# A job on a machine with the given cards: prints what it took, then works until it is told to end.
JOB = """
import logging, os, sys
from sae_atlas.io import gpu_locks
logging.basicConfig(level="WARNING")
gpu_locks.cards = lambda: sys.argv[1].split(",")
gpu_locks.POLL = 0.05
if len(sys.argv) > 3:
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
gpu_locks.take(every=sys.argv[2] == "every")
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""
CARDS = ["GPU-aa1", "GPU-ab1", "GPU-ba1", "GPU-bb1"]


@pytest.fixture
def start():
    """Starts a job in a process of its own."""
    jobs = []
    locks = Path(tempfile.mkdtemp())  # pytest's folders are closed to other users
    locks.chmod(0o1777)

    def start(cards=CARDS, every="", given=None, user=(), **options) -> subprocess.Popen:
        environment = {name: value for name, value in os.environ.items() if name != gpu_locks.VISIBLE}
        environment |= {"TMPDIR": str(locks), "PYTHONPATH": os.pathsep.join(sys.path)}
        environment |= {} if given is None else {gpu_locks.VISIBLE: given}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", JOB, ",".join(cards), every, *user]
        jobs.append(subprocess.Popen(command, env=environment, **pipes, **options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()
        job.wait()
        for pipe in (job.stdin, job.stdout, job.stderr):
            pipe.close()
    shutil.rmtree(locks)


def card(job: subprocess.Popen) -> str:
    """What the job took, once it has."""
    assert select.select([job.stdout], [], [], 60)[0], "it took no card"
    line = job.stdout.readline()
    assert line, job.stderr.read()
    return line.strip()


def waits(job: subprocess.Popen) -> bool:
    """Does it say that it waits, and take no card?"""
    said = select.select([job.stderr], [], [], 60)[0] and job.stderr.readline()
    return said and "all GPUs are in use by other jobs" in said and not select.select([job.stdout], [], [], 0.5)[0]


def test_cpu_is_always_there():
    assert name_of(resolve("cpu")) == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_gpu_that_is_not_there():
    assert resolve("auto") == torch.device("cpu")
    with pytest.raises(AtlasError, match=r"^training\.device: `cuda` is asked for, but .*; set `auto` or `cpu`"):
        resolve("cuda")
    assert [gpus_for(device) for device in ("cpu", "cuda")] == [0, 1]


def test_jobs_that_start_at_once_take_different_cards(start):
    jobs = [start() for _ in CARDS]
    assert sorted(map(card, jobs)) == CARDS


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_with_more_jobs_than_cards_one_waits_until_another_ends(start, end):
    running = [start(CARDS[:2]) for _ in range(2)]
    cards = list(map(card, running))
    more = start(CARDS[:2])
    assert waits(more)
    if end:
        running[1].send_signal(end)
    else:
        running[1].stdin.close()
    assert card(more) == cards[1]


def test_cards_that_are_given_are_chosen_among(start):
    """By number, by UUID or its beginning; what CUDA would not read is not read."""
    assert card(start(given="2, 0")) == "2"
    assert card(start(given="GPU-ba,GPU-aa")) == "GPU-aa"
    assert waits(start(given="0,2,9,1"))
    assert card(start(given="3,-1,1")) == "3"
    assert card(start()) == "GPU-ab1"
    assert card(start(given="")) == ""
    assert card(start(given="-1")) == "-1"


def test_the_only_card_that_is_given_is_used_at_once_and_no_other_is_held(start):
    assert [card(start(given="1")) for _ in range(2)] == ["1", "1"]
    assert card(start(CARDS[:2])) == "GPU-aa1"
    assert waits(start(CARDS[:2]))


def test_a_part_of_a_card_is_held_by_its_name(start):
    given = "MIG-1,MIG-2"
    assert [card(start(given=given)) for _ in range(2)] == ["MIG-1", "MIG-2"]
    assert waits(start(given=given))


def test_a_model_in_parts_takes_all_cards_that_are_free(start):
    alone = start(every="every")
    assert card(alone) == ",".join(CARDS)
    beside = start()
    assert waits(beside)
    alone.kill()
    taken = card(beside)
    assert card(start(every="every")) == ",".join(each for each in CARDS if each != taken)
    assert waits(start(every="every"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start jobs of another user")
def test_users_of_a_machine_share_its_locks(start):
    """Each creates files under a umask that shuts others out, in a folder where all may write."""
    assert card(start(user=["65534"], umask=0o077)) == CARDS[0]
    assert card(start(umask=0o077)) == CARDS[1]
    assert card(start(user=["65533"], umask=0o077)) == CARDS[2]
    assert waits(start(CARDS[:3], user=["65533"]))


@pytest.fixture
def cards_of_this_process(monkeypatch, tmp_path):
    """Two cards, nothing taken yet; what is taken is given back."""
    monkeypatch.setattr(gpu_locks, "cards", lambda: CARDS[:2])
    monkeypatch.setattr(gpu_locks, "_held", [])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(gpu_locks.VISIBLE, "")  # so that it is as before in the end
    monkeypatch.delenv(gpu_locks.VISIBLE)
    yield
    for descriptor in gpu_locks._held:
        os.close(descriptor)


def test_where_files_take_no_locks_it_is_said_once(cards_of_this_process, monkeypatch, caplog, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    gpu_locks.take()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} takes no locks (No locks available): jobs may share a GPU"
    ]
    assert gpu_locks.VISIBLE not in os.environ


@pytest.fixture
def asked(monkeypatch):
    """What CUDA would have seen each time that it was asked for."""
    seen, ask = [], torch.cuda.is_available

    def is_available():
        seen.append(os.environ.get(gpu_locks.VISIBLE))
        return ask()

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    return seen


def test_a_job_takes_its_card_before_cuda_is_asked_and_keeps_it(cards_of_this_process, asked, tmp_path):
    with job_log(tmp_path / "job.log"):
        resolve("cpu")
        assert gpu_locks.VISIBLE not in os.environ
        resolve("auto")
        resolve("auto")
    assert asked == [None, "GPU-aa1", "GPU-aa1"]
    assert "GPU: GPU-aa1" in (tmp_path / "job.log").read_text()


def test_work_outside_of_the_workflow_takes_none(cards_of_this_process, asked):
    resolve("auto")
    assert asked == [None]


@pytest.mark.parametrize(("device", "taken"), [("auto", "GPU-aa1"), ("spread", "GPU-aa1,GPU-ab1")])
def test_a_model_is_read_onto_the_cards_that_its_job_took(cards_of_this_process, asked, tmp_path, device, taken):
    random_model("gpt2").save_pretrained(tmp_path / "model")
    with job_log(tmp_path / "job.log"):
        read_model(tmp_path / "model", "float32", device)
    assert set(asked) <= {taken} and os.environ[gpu_locks.VISIBLE] == taken


def test_cards_are_those_that_nvidia_smi_lists(monkeypatch, tmp_path, caplog):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$*" = "--query-gpu=uuid --format=csv,noheader" ] && printf "GPU-1\\nGPU-2\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(gpu_locks, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert gpu_locks.cards() == ["GPU-1", "GPU-2"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu_locks.cards() == [] and "jobs may share one" in caplog.text
    monkeypatch.setattr(torch.version, "cuda", None)
    assert gpu_locks.cards() == []
