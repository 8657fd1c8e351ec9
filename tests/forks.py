"""Snakemake in forks of a Python that has imported what it and its jobs import: that takes longer than what they do in a test.

What runs is the program itself, with its own arguments, folder, environment and output. What a library reads from the
environment while it is imported is what it was when the server began: for another environment an interpreter is started.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from sae_atlas.io.forks import forget_library, to_its_end

ROOT = Path(__file__).resolve().parents[1]
WARM = str(ROOT / "workflow" / "warm.py")
FORKS = multiprocessing.get_context("forkserver")
OF_SNAKEMAKE = [
    "nbformat",
    "smart_open",
    "snakemake.cli",
    "snakemake.report.html_reporter",
    "snakemake_logger_plugin_rich",
]
OF_RULES = [
    "sae_atlas.config.read",
    "sae_atlas.plan.estimate",
    "sae_atlas.plan.site_check",
    "sae_atlas.stages.contents",
]
FORKS.set_forkserver_preload([*OF_SNAKEMAKE, *OF_RULES, *runpy.run_path(WARM)["PRELOADED"]])
# Tests are more processes than there are cores. Read by what is preloaded.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BEGAN_WITH = dict(os.environ)
READ_LATE = {
    "CUDA_VISIBLE_DEVICES",
    "NAMING_KEY",
    "PYTEST_CURRENT_TEST",
    "TRITON_INTERPRET",
}  # by nothing that is preloaded


# Set in this process by what tests import (scikit-learn, torch) and call (a job, io.devices); what runs sets them itself.
SET_BY_TESTS = {
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "OMP_WAIT_POLICY",
    "THP_MEM_ALLOC_ENABLE",
    "TORCHINDUCTOR_CACHE_DIR",
}


def run(*program: str, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
    """As subprocess.run([python, *program]) would, stdout and stderr together as text. program: a file, or `-m`, a module."""
    program, env = list(map(str, program)), dict(env or _untouched()) | ONE_THREAD
    with tempfile.NamedTemporaryFile() as output:
        if _read_early(env) == _read_early(BEGAN_WITH | ONE_THREAD):
            with mock.patch.dict(os.environ, BEGAN_WITH | ONE_THREAD, clear=True):  # which the server begins with
                process = FORKS.Process(target=_run, args=(program, output.name, str(cwd or Path.cwd()), env))
                process.start()
            process.join()
            code = process.exitcode
        else:
            command = [sys.executable, *program]
            code = subprocess.run(command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT).returncode
        return subprocess.CompletedProcess(program, code, Path(output.name).read_text(errors="replace"))


def _untouched() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SET_BY_TESTS}


def _read_early(variables: dict) -> dict:
    return {name: value for name, value in variables.items() if name not in READ_LATE}


def _run(program: list[str], output: str, cwd: str, env: dict) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if str(ROOT / "Snakefile") not in program:  # a workflow elsewhere has a library of its own beside it
        forget_library()
    if program[0] == "-m":
        sys.argv = program[1:]
        sys.path[:0] = [cwd]
        to_its_end(lambda: runpy.run_module(program[1], run_name="__main__", alter_sys=True))
    sys.argv = program
    to_its_end(lambda: runpy.run_path(program[0], run_name="__main__"))
