"""Snakemake whose jobs on this machine do not import the libraries again: `python workflow/warm.py ARGUMENTS`.

A process beside it imports them once, and every job is a fork of that: a process of its own, with the rule's own script.
Jobs that run in another environment (conda, containers, modules) or are sent to a cluster start as they do without this.
"""

import runpy
import subprocess
import sys
from importlib import import_module

from sae_atlas.io.devices import let_threads_sleep
from sae_atlas.io.forks import fork_server, to_its_end
from sae_atlas.stages import STAGES

# What the functions of the stages import when they are called, and the scripts of Snakemake's jobs.
LIBRARIES = [
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "sae_atlas.kernels.cpu",
    "sae_atlas.kernels.registries",
    "scipy.optimize",
    "snakemake.iocontainers",
    "snakemake.logging",
    "threadpoolctl",
    "transformers.generation.utils",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
]
FUNCTIONS = {function for stage in STAGES.values() for function in (stage.runs, stage.on_rows) if function}
PRELOADED = LIBRARIES + sorted({f"sae_atlas.{function.partition(':')[0]}" for function in FUNCTIONS})


def script(path: str, threads: int) -> None:
    from threadpoolctl import threadpool_limits  # by jobs alone: it changes the environment of who imports it

    # An interpreter has them from OMP_NUM_THREADS, which is read when the libraries are loaded.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    threadpool_limits(threads)
    to_its_end(lambda: runpy.run_path(path, run_name="__main__"))


def preload() -> None:
    for module in PRELOADED:
        import_module(module)


def main() -> None:
    let_threads_sleep()
    call = fork_server(script, preload)  # it imports while Snakemake reads the workflow

    from snakemake import cli  # not by the jobs
    from snakemake.script import PythonScript

    in_an_interpreter = PythonScript.execute_script

    def execute_script(self, path: str, edit: bool = False) -> None:
        if self.conda_env or self.container_img or self.env_modules:
            in_an_interpreter(self, path, edit)
        elif code := call(path, self.threads):
            raise subprocess.CalledProcessError(code, path)

    PythonScript.execute_script = execute_script
    cli.main(sys.argv[1:])


if __name__ == "__main__":
    main()
