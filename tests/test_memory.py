"""A job that runs out of memory ends in one line; run again with more, it gives the same bytes. A corpus takes little."""

import json
import math
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
import yaml
from fuzzing import memory
from test_full_disk import TINY

from sae_atlas.config.read import read_config
from sae_atlas.io.log import job_log
from sae_atlas.plan.estimate import asked
from sae_atlas.plan.shape import read_shape
from sae_atlas.stages.atlas import Atlas
from workflow import command, small, snakemake, take

GROUPS = Path("/sys/fs/cgroup/memory")  # version 1
MEGABYTE = 2**20
TARGET = "results/base_model/provenance.json"


@pytest.fixture
def group():
    """Processes in it get no more than what is written to its limit: the kernel kills the largest."""
    made = GROUPS / f"sae-atlas-{uuid.uuid4().hex[:8]}"
    try:
        made.mkdir()
    except OSError:
        pytest.skip("needs the right to make a group of processes with a limit on memory (cgroups, version 1)")
    yield made
    made.rmdir()


def test_killed_for_memory_it_is_told_and_a_retry_with_more_gives_the_same_bytes(group, finished, tmp_path):
    """What SLURM does by itself (tests/test_slurm.py) on one machine: the limit is raised once a job was killed by it."""
    limit, config = group / "memory.limit_in_bytes", tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(TINY, sort_keys=False))

    def run(*arguments: str) -> tuple[int, str]:
        limit.write_text(str(250 * MEGABYTE))  # more than the workflow takes, less than torch
        process = subprocess.Popen(
            command(tmp_path / "run", config, TARGET, *arguments),
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        output = ""
        for line in process.stdout:
            output += line
            if "Trying to restart job" in line:
                limit.write_text(str(4096 * MEGABYTE))
        return process.wait(), output

    (tmp_path / "run").mkdir()
    code, output = run()
    assert code != 0 and "A job was killed (signal 9), as a system does that runs out of memory." in output, output
    assert not (tmp_path / "run" / TARGET).exists()
    code, output = run("--retries", "1")
    assert code == 0 and output.count("SIGKILL") == 1, output
    ours, theirs = (contents(folder / "results" / "base_model") for folder in (tmp_path / "run", finished.folder))
    assert ours == theirs and len(ours) > 3


def contents(folder: Path) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ask", ["numpy.ones(2**28)", "torch.ones(2**28)", "mmap.mmap(-1, 2**31)", "bytearray(2**31)"])
def test_memory_that_cannot_be_had_is_one_line(ask, tmp_path, capsys):
    modules = {name: __import__(name) for name in ("mmap", "numpy", "torch")}
    with pytest.raises(SystemExit), job_log(tmp_path / "job.log"), memory(400):
        eval(ask, modules)
    line = capsys.readouterr().err
    assert line.startswith("error: out of memory") and line.count("\n") == 1 and "Nothing is lost; run fewer" in line


SUBMIT = """\
#!/bin/sh
echo "$1 $2 $3 $4" >> submitted
sh "$5" > /dev/null 2>&1
echo $$
"""  # a cluster that runs a job at once and writes down what it asked for


def test_the_rule_asks_for_what_the_plan_says_and_a_retry_for_more(finished, tmp_path):
    """On nodes of one core, where `max-threads` says so, for one of the two threads that it could use."""
    take(finished.folder, tmp_path, "base_model")
    (tmp_path / "text.txt").write_text("too short")
    (tmp_path / "submit").write_text(SUBMIT)
    text = {"name": "short", "source": "local", "path": str(tmp_path / "text.txt"), "context": 32, "tokens": "40M"}
    submit = f"sh {tmp_path}/submit {{rule}} {{resources.mem_mb}} {{resources.runtime}} {{threads}}"
    cluster = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", submit, "--jobs", "1", "--retries", "1"]
    done = snakemake(
        tmp_path,
        small(corpus=text),
        *cluster,
        "--latency-wait",
        "1",
        "--max-threads",
        "1",
        "results/corpus/short.zarr/zarr.json",
        check=False,
        warm=False,
    )
    told = [line.split() for line in (tmp_path / "submitted").read_text().splitlines()]
    atlas = Atlas(read_config(tmp_path / "config.yaml"))
    shape = read_shape(atlas.config["base_model"], tmp_path / "results" / "base_model" / "model")
    megabytes, minutes = asked(atlas, shape)["tokenize"]
    assert [line[1:] for line in told if line[0] == "tokenize"] == [
        [str(tries * megabytes), str(tries * minutes), "1"] for tries in (1, 2)
    ], done.stdout
    assert megabytes == math.ceil(1200 + 6 * (40 + 0.016))


CORPUS = """
import pathlib, sys
from sae_atlas.base_models.prepare import make_tokenizer
from sae_atlas.corpus import tokenize
text, output, tokens = sys.argv[1:]
provenance = pathlib.Path(output).parent / "provenance.json"
make_tokenizer(provenance, "bytes")
tokenize(provenance, output, {"source": "local", "path": text}, 128, int(tokens), 100_000, 0)
status = pathlib.Path("/proc/self/status").read_text().splitlines()
print(*(line.split()[1] for line in status if line.startswith("VmHWM")))  # kB
"""


def test_a_corpus_takes_at_most_six_bytes_a_token_above_its_base(tmp_path):
    """The peak of the process at 2 and at 8 million tokens; holding text, ids and contexts side by side takes 16."""
    generator, text = np.random.default_rng(0), tmp_path / "text.jsonl"
    with text.open("w") as file:
        for length in generator.integers(200, 3000, 5500):
            file.write(json.dumps({"text": bytes(generator.integers(97, 123, length, np.uint8)).decode()}) + "\n")
    environment = os.environ | {"RAYON_NUM_THREADS": "2"}  # as the rule's
    peaks = []
    for tokens in (2_000_000, 8_000_000):
        command = [sys.executable, "-c", CORPUS, text, tmp_path / f"{tokens}.zarr", str(tokens)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) * 1024)
    assert (peaks[1] - peaks[0]) / 6_000_000 <= 6, peaks
