"""Run the workflow as a user does, in a folder of its own, on a small random model."""

import copy
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import forks
import yaml
from forks import ROOT, WARM

SMALL = {
    "base_model": {
        "name": "small-neox",
        "source": "random",
        "architecture": "gpt_neox",
        "sizes": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64},
        "seed": 0,
        "tokenizer": "bytes",
    },
    "corpus": {
        "name": "wikipedia-introductions",
        "source": "package",
        "package": "wikipedia-introductions",
        "context": 32,
        "tokens": "8k",
        "held_out_tokens": "2k",
    },
    "activations": {"layers": [0, 1, 2], "shard_rows": 1024, "chunk_rows": 256, "max_live_stores": 4},
    "training": {"tokens": "3k", "snapshots": ["1k", "2k"]},
    "recipes": {
        "topk": {"architecture": "topk", "expansion": 4, "k": 4, "batch": 128, "warmup": 2, "decay": 0},
        "l1": {
            "architecture": "relu",
            "expansion": 4,
            "l1": {"coefficient": 0.01, "convention": "canonical"},
            "batch": 128,
            "warmup": 2,
            "sparsity_warmup": 2,
            "decay": 0,
        },
    },
    "evaluation": {"tokens": "1k", "patched_tokens": 512},
}

FIT = {"tokens": "4k", "batch": 16, "warmup": 2, "learning_rate": 0.01, "validations": 2}
LIFE = {  # a base model of one's own: trained from scratch, tuned, merged
    "name": "gpt2-34k-wikipedia-introductions-to-maths-merged",
    "source": "merged",
    "base": {
        "name": "gpt2-34k-wikipedia-introductions-pretrain",
        "source": "pretrain",
        "architecture": "gpt2",
        "sizes": {"n_embd": 32, "n_layer": 2, "n_head": 2},
        "seed": 0,
        "tokenizer": "bytes",
        "fit": FIT,
    },
    "lora": {
        "corpus": {
            "name": "maths",
            "source": "package",
            "package": "wikipedia-introductions",
            "topic": "Mathematics",
            "tokens": "4k",
        },
        "rank": 2,
    },
    "fit": FIT,
}


def small(**changes) -> dict:
    """The small config with changes given as dotted keys: small(**{"recipes.topk.k": 8})."""
    return changed(copy.deepcopy(SMALL), changes)


def changed(config: dict, changes: dict) -> dict:
    """The config itself, with changes given as dotted keys."""
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return config


def snakemake(
    folder: Path, config: dict | Path, *arguments: str, check: bool = True, warm: bool = True
) -> subprocess.CompletedProcess:
    """Run the workflow in `folder`; returns the finished process, stdout and stderr together.

    warm: jobs begin with the libraries imported (workflow/warm.py), for results are looked at and not processes.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        if isinstance(config, dict):
            # Kept beside the results of a run; a dry run leaves nothing in a folder that others read.
            file = Path(elsewhere if "--dry-run" in arguments else folder) / "config.yaml"
            file.write_text(yaml.safe_dump(config, sort_keys=False))
            config = file
        done = run(*command(folder, config, *arguments)[1:], warm=warm)
    if check and done.returncode:
        raise AssertionError(f"snakemake ended with {done.returncode}:\n{done.stdout}")
    return done


def take(atlas: Path, folder: Path, *parts: str) -> Path:
    """Copy parts of the results of an atlas, which are then current in `folder`, too; returns the folder."""
    for part in parts:
        shutil.copytree(atlas / "results" / part, folder / "results" / part)
    return folder


def run(*program: str, warm: bool = False, **options) -> subprocess.CompletedProcess:
    """Run `-m snakemake ...`; returns the finished process, stdout and stderr together. options: cwd, env."""
    if "--dry-run" in program:
        return forks.run(*program, **options)
    if warm:
        return forks.run(WARM, *program[2:], **options)
    together = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run([sys.executable, *program], **together, **options)


def command(folder: Path, config: Path, *arguments: str, warm: bool = False) -> list[str]:
    """warm: with jobs that are forks, as `make run` has them; on a cluster they are interpreters."""
    workflow = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--configfile", str(config)]
    program = [WARM] if warm else ["-m", "snakemake"]
    return [sys.executable, *program, *workflow, "--cores", "2", *arguments]


def planned(folder: Path, config: dict | Path, *arguments: str) -> list[str]:
    """What `snakemake -n` would run: the message of every job, sorted (`train: topk, layer 02, to 1k tokens`)."""
    return planned_in(snakemake(folder, config, "--dry-run", *arguments).stdout)


def planned_in(text: str) -> list[str]:
    """The messages of the jobs that Snakemake lists, sorted."""
    jobs = re.findall(r"^Job \d+: (.*)$", text, re.MULTILINE)
    return sorted(job for job in jobs if not job.startswith("all: "))  # the target, which makes nothing


def kinds(jobs: list[str]) -> dict[str, int]:
    """Number of jobs of each kind: the word before the colon of its message."""
    return dict(Counter(job.split(":")[0] for job in jobs))
