"""The chain on a real SLURM: every job through the queue, four faults on the way, the same bits as on one machine.

`SLURM_WHOLE=1 pytest -m long tests/test_slurm.py` runs all of tiny-neox, 24 layers x 6 snapshots; `make test` two of each.
"""

import copy
import os
import re
import shutil
import signal
import subprocess

import psutil
import pytest
import yaml
from slurm import ask, one_node, skip_where_it_cannot_run, wait_for
from test_survives import ONE, outputs

from workflow import ROOT, command, small, snakemake

RECIPE = "batchtopk-8"
WHOLE = bool(os.getenv("SLURM_WHOLE"))
LAYERS = range(24 if WHOLE else 2)
SNAPSHOTS = ("4k", "8k", "12k", "16k", "20k", "24k") if WHOLE else ("4k", "8k")
LONGEST = 4 * 3600 if WHOLE else 400  # seconds that are waited for a training, or for the end
# In the short form one layer is trained to the end and measured, beside another one that begins. Nothing is collected and
# drawn: those jobs are like the others.
CELLS = [(layer, snapshot) for layer in LAYERS for snapshot in SNAPSHOTS][: None if WHOLE else 3]
MEASURED = LAYERS if WHOLE else LAYERS[:1]
TARGETS = [] if WHOLE else [f"results/metrics/{RECIPE}/layer{MEASURED[0]:02d}.json"]
long_if_whole = pytest.mark.long if WHOLE else lambda test: test
# The README's lines to edit: no account here, small nodes, and the partitions are called as in the profiles.
EDITED = {"  slurm_account: my-account\n": "", "max-threads: 8": "max-threads: 4"}
QUICK = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]
# The config says that there are GPUs, and jobs ask for them; those that get one of the pretended ones compute without it.
RULES = "\n".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
GPU_RULES = re.findall(r"rule (\w+):(?:(?!rule \w+:).)*?gpu=GPUS", RULES, re.DOTALL)
WITHOUT = ["--set-resources", *(f"{rule}:device=cpu" for rule in GPU_RULES)]
# Every training asks for one minute at first; measuring gets too little memory at first.
RESOURCES = [*WITHOUT, "train_sae:runtime=attempt", "evaluate_sae:mem_mb=400*attempt**2"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    skip_where_it_cannot_run()
    with one_node(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


def config(device: str) -> dict:
    """tiny-neox, of which these layers and snapshots, and trainings long enough to be hit."""
    config = yaml.safe_load((ROOT / "config" / "tiny-neox.yaml").read_text())
    config["activations"]["layers"] = list(LAYERS)
    config["training"] |= {"tokens": SNAPSHOTS[-1], "snapshots": list(SNAPSHOTS[:-1]), "device": device}
    config["recipes"][RECIPE] |= {"expansion": 128, "batch": 8}
    return config


def profile(folder, name: str):
    """A copy of the profile, edited as the README says; its path as somebody writes it who is beside it."""
    copy = folder / f"profile-{name}"
    shutil.copytree(ROOT / "workflow" / "profiles" / name, copy)
    text = (copy / "profile.yaml").read_text()
    for line, mine in EDITED.items():
        text = text.replace(line, mine)
    (copy / "profile.yaml").write_text(text)
    return ["--profile", os.path.relpath(copy)]


def own_jobs(folder) -> list[str]:
    """What SLURM says of every job that was submitted for the run in `folder`, a line each."""
    jobs = ask("scontrol", "--oneliner", "show", "job").splitlines()
    return [job for job in jobs if f" WorkDir={folder} " in f"{job} "]


def check_partitions(jobs: list[str]) -> None:
    """A job went to the partition with GPUs if it asked for one, and only then; both kinds are among them."""
    asked = [bool(re.search(r"TresPer\w+=gres:gpu:[1-9]", job)) for job in jobs]
    assert asked == [" Partition=gpu " in job for job in jobs]
    assert {True, False} == set(asked)


def training_log(folder, layer: int, snapshot: str):
    return folder / "results" / "logs" / "train_sae" / RECIPE / f"layer{layer:02d}_{snapshot}.log"


def running(folder, snapshot: str, but: int | None = None) -> tuple[str, int]:
    """Wait until the training of a layer (another than `but`) to this snapshot is at its steps; its job's number, the layer.

    Which layer comes first is Snakemake's choice.
    """

    def found() -> tuple[str, int] | None:
        for line in ask("squeue", "-h", "-t", "running", "-o", "%i %k").splitlines():
            job, _, comment = line.partition(" ")
            for layer in LAYERS:
                log = training_log(folder, layer, snapshot)
                named = "train_sae" in comment and f"{layer:02d}" in comment and snapshot in comment
                if named and layer != but and log.exists() and " steps of " in log.read_text():
                    return job, layer
        return None

    job, layer = wait_for(found, f"a training to {snapshot}", LONGEST)
    assert "GRES=gpu:1(IDX:" in ask("scontrol", "--details", "show", "job", job)  # a card is set aside for it
    return job, layer


def checkpoints(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("results/checkpoints/*/sae_layer??_*k.pt")}


def stop_process(folder, layer: int, snapshot: str) -> None:
    """Halt the process that trains this layer, as a hung disk would; others may train beside it."""
    log = str(training_log(folder, layer, snapshot))
    script = re.compile(r"snakemake.*\.train_sae\.py|tmp\w+\.train_sae\.py")
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = " ".join(process.info["cmdline"] or [])
        trains = process.info["cwd"] == str(folder) and script.search(line) and "-m snakemake" not in line
        if trains and log in {file.path for file in process.open_files()}:
            process.send_signal(signal.SIGSTOP)
            return
    raise AssertionError("no process trains")


@long_if_whole
def test_a_run_with_four_faults_ends_with_the_same_bits(cluster, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config("cuda"), sort_keys=False))
    ends = dict(CELLS)  # the last snapshot of each layer
    last = [f"results/checkpoints/{RECIPE}/sae_layer{layer:02d}_{end}.resume.pt" for layer, end in ends.items()]
    targets = [*TARGETS, *last] if TARGETS else []
    arguments = [*targets, *profile(tmp_path, "slurm"), "--jobs", "3", *QUICK, *RESOURCES]
    output = (tmp_path / "output.txt").open("w+")
    run = subprocess.Popen(
        command(folder, file, *arguments), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        job, cancelled = running(folder, "4k")
        subprocess.run(["scancel", job], check=True)
        late, stopped = running(folder, "4k", but=cancelled)
        stop_process(folder, stopped, "4k")  # for the rest of its minute, while the others go on
        wait_for(lambda: "CANCELLED" in cluster.completed(), "the cancelled job to end")
        cluster.restart_controller()
        wait_for(lambda: "TIMEOUT" in cluster.completed(), "the job over its time to end", LONGEST)
        assert run.wait(LONGEST) == 0
    except BaseException:
        os.killpg(run.pid, signal.SIGKILL)
        output.seek(0)
        print(output.read())
        raise
    states, jobs = cluster.completed(), own_jobs(folder)
    ended = dict(re.search(r"JobId=(\d+) .* JobState=(\w+) ", job).groups() for job in jobs)
    assert states.count("CANCELLED") == 1
    assert (ended[job], ended[late]) == ("CANCELLED", "TIMEOUT")  # on a busy machine others may take over a minute, too
    for layer in (cancelled, stopped):
        assert "going on after step" in training_log(folder, layer, "4k").read_text()
    check_partitions(jobs)
    trained = [job for job in jobs if "train_sae" in job and "JobState=COMPLETED" in job]
    assert len(trained) == len(CELLS)
    assert all("TresPerJob=gres:gpu:1" in job and "Partition=gpu" in job for job in trained)
    measured = [job for job in jobs if "evaluate_sae" in job]
    assert sum("JobState=COMPLETED" not in job for job in measured) == len(MEASURED)  # out of memory at first
    assert sum("JobState=COMPLETED" in job for job in measured) == len(MEASURED)
    assert cluster.submitted() == len(jobs) == len(states)
    assert all((folder / target).is_file() for target in TARGETS or ["results/index.html"])
    alone = tmp_path / "alone"
    alone.mkdir()
    snakemake(alone, config("cpu"), *last)
    assert checkpoints(folder) == checkpoints(alone)
    assert len(checkpoints(folder)) == len(CELLS)


@pytest.mark.parametrize("name, options", [("slurm", QUICK), ("cluster-generic", [])])
def test_jobs_go_where_there_is_what_they_ask_for(name, options, cluster, finished, tmp_path):
    """Two jobs that a finished atlas is ready for: students are distilled on a GPU, the floors predicted without."""
    before = cluster.completed().count("COMPLETED")
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    students = {"seeds": 1, "steps": 10, "batch": 2, "evaluations": 10, "held_out_tokens": 200}
    settings = small(**{"training.device": "cuda", "floors": {"widths": [8], "students": students}})
    targets = "results/students.parquet", "results/floors/topk/floors.parquet"
    snakemake(folder, settings, *targets, *profile(tmp_path, name), *options, *WITHOUT, warm=False)
    jobs = own_jobs(folder)
    check_partitions(jobs)
    assert cluster.completed().count("COMPLETED") == before + len(jobs) == before + len(targets)


@pytest.mark.long
def test_what_was_finished_is_kept(cluster, tmp_path):
    """Asked for again it ends with the same bits; where the job fails, what was there is there again."""
    small = copy.deepcopy(ONE)
    folder = tmp_path / "run"
    folder.mkdir()
    snakemake(folder, small)
    before = outputs(folder)
    there = [*profile(tmp_path, "slurm"), "--jobs", "3", *QUICK, "--retries", "0"]
    last = "results/checkpoints/topk/sae_layer01_2k.pt"
    for asked, job in (
        (("--force", last), "train: topk, layer 01, to 2k tokens"),
        (("--forcerun", "train_sae"), "train: topk, layer 01, to 1k tokens"),
        (("--forceall",), "base model: prepare random"),
    ):
        assert job in snakemake(folder, small, *asked, *there, warm=False).stdout
        assert outputs(folder) == before, asked
    small["recipes"]["topk"]["learning_rate"] = 1e30
    failed = snakemake(folder, small, *there, check=False, warm=False)
    assert failed.returncode != 0 and "gradient norm" in failed.stdout
    assert outputs(folder) == before
    assert "Nothing to be done" in snakemake(folder, ONE, *there).stdout
