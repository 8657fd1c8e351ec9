"""Snakemake whose scripts run in forks of a Python that has imported the libraries: `workflow.snakemake(..., warm=True)`.

Rules, scripts and files are the real ones, every job is a process of its own.
"""

import os
import subprocess
import sys

from forks import fork
from snakemake.cli import main
from snakemake.script import PythonScript


def execute_script(self, script: str, edit: bool = False) -> None:
    """In place of PythonScript.execute_script, which starts an interpreter."""
    if code := fork(os.environ["JOBS"], (script,), [0, 1, 2]):
        raise subprocess.CalledProcessError(code, script)


if __name__ == "__main__":
    PythonScript.execute_script = execute_script
    main(sys.argv[1:])
