"""Snakemake whose scripts run in forks of one Python that has imported the libraries: `python tests/warm.py ARGUMENTS`.

A script of a toy atlas computes for a tenth of a second and imports for three. Rules, scripts and files are the real ones.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys

LIBRARIES = ["matplotlib.figure", "numba", "pandas", "pyarrow.parquet", "torch", "transformers", "zarr"]


def execute_script(self, script: str, edit: bool = False) -> None:
    """In place of PythonScript.execute_script, which starts an interpreter."""
    process = FORKS.Process(target=runpy.run_path, args=(script,), kwargs={"run_name": "__main__"})
    process.start()
    process.join()
    if process.exitcode:
        raise subprocess.CalledProcessError(process.exitcode, script)


if __name__ == "__main__":
    from snakemake.cli import main
    from snakemake.script import PythonScript

    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    FORKS = multiprocessing.get_context("forkserver")
    FORKS.set_forkserver_preload(LIBRARIES)
    PythonScript.execute_script = execute_script
    main(sys.argv[1:])
