"""Programs in forks of a Python that has imported what they import.

A dry run of Snakemake plans for half a second and imports for two. What runs is the program itself, with its own arguments,
folder, environment and output. What a library reads from the environment while it is imported is what it was when the server
began: tests of that, and of processes that are killed, start an interpreter.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from sae_atlas.io.forks import call, to_its_end


def run(*program: str, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
    """As subprocess.run([python, "-m", *program]) would, stdout and stderr together as text."""
    with tempfile.NamedTemporaryFile() as output:
        arguments = list(map(str, program)), output.name, str(cwd or Path.cwd()), dict(env or os.environ)
        code = call(_run_module, *arguments)
        return subprocess.CompletedProcess(program, code, output.read().decode(errors="replace"))


def _run_module(program: list[str], output: str, cwd: str, env: dict) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = program
    sys.path[:0] = [cwd, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    to_its_end(lambda: runpy.run_module(program[0], run_name="__main__", alter_sys=True))
