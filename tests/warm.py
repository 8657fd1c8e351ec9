"""Snakemake whose scripts run in forks of a Python that has imported the libraries: `python tests/warm.py ARGUMENTS`.

Rules, scripts and files are the real ones, every job is a process of its own.
"""

import os
import runpy
import subprocess
import sys

from forks import FORKS, call, to_its_end

LIBRARIES = [
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "numba",
    "pandas",
    "pyarrow.parquet",
    "torch",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "zarr",
]


def script(path: str) -> None:
    to_its_end(lambda: runpy.run_path(path, run_name="__main__"))


def execute_script(self, path: str, edit: bool = False) -> None:
    """In place of PythonScript.execute_script, which starts an interpreter."""
    code = call(script, path)
    if code:
        raise subprocess.CalledProcessError(code, path)


if __name__ == "__main__":
    from snakemake.cli import main
    from snakemake.script import PythonScript

    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    FORKS.set_forkserver_preload(LIBRARIES)
    PythonScript.execute_script = execute_script
    main(sys.argv[1:])
