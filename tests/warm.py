"""Snakemake whose scripts run in forks of a Python that has imported the libraries: `workflow.snakemake(..., warm=True)`.

Rules, scripts and files are the real ones, every job is a process of its own.
"""

import os
import subprocess
import sys
from contextlib import ExitStack

from forks import fork
from snakemake.benchmark import benchmarked
from snakemake.cli import main
from snakemake.script import PythonScript


def execute_script(self, script: str, edit: bool = False) -> None:
    """In place of PythonScript.execute_script, which starts an interpreter."""
    with ExitStack() as measured:
        code = fork(
            os.environ["JOBS"], (script,), [0, 1, 2],
            begun=lambda process: measured.enter_context(benchmarked(process, self.bench_record)),
        )  # fmt: skip
    if code:
        raise subprocess.CalledProcessError(code, script)


if __name__ == "__main__":
    PythonScript.execute_script = execute_script
    main(sys.argv[1:])
