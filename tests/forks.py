"""Programs in forks of a Python that has imported what they import: multiprocessing's fork server.

A dry run of Snakemake plans for half a second and imports for two; a script of a toy atlas computes for a tenth of a second and
imports for three. What runs is the program itself, with its own arguments, folder, environment and output. What a library reads
from the environment while it is imported is what it was when the server began: tests of that, and of processes that are killed,
start an interpreter.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
ONE_AT_A_TIME = threading.Lock()


def run(*program: str, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
    """As subprocess.run([python, "-m", *program]) would, stdout and stderr together as text."""
    with tempfile.NamedTemporaryFile() as output:
        arguments = list(map(str, program)), output.name, str(cwd or Path.cwd()), dict(env or os.environ)
        code = call(_run_module, *arguments)
        return subprocess.CompletedProcess(program, code, output.read().decode(errors="replace"))


def call(function: Callable, *arguments) -> int:
    """The exit code of a process that calls it. Any thread may ask: to start a process looks at the ends of all others."""
    process = FORKS.Process(target=function, args=arguments)
    with ONE_AT_A_TIME:
        process.start()
    wait([process.sentinel])
    with ONE_AT_A_TIME:
        process.join()
    return process.exitcode


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


def to_its_end(program: Callable[[], object]) -> None:
    """Run it and end the process as an interpreter would, but for taking apart what was imported: that takes seconds."""
    code: object = 1
    try:
        program()
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
