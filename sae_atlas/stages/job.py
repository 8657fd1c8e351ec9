"""What every job of the workflow does around its stage's function: the log, the check of its inputs, the record, its costs."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

from sae_atlas.io.errors import REMAKE, AtlasError, reason
from sae_atlas.io.files import write_json
from sae_atlas.io.log import job_log, logger
from sae_atlas.io.memory import keep_memory
from sae_atlas.io.provenance import carries, code_identity, current_record, make_record, recording
from sae_atlas.io.usage import process_start, write_usage

# Settings that stand in identities alone: of what is no more, in those of finished atlases; and of what a reader knows by
# itself, where finished atlases were made without it.
NO_ARGUMENT = ("keep_bits", "reads")
ARRAYS = "zarr.json"  # stands for the folder of arrays that it lies in


@contextmanager
def job(snakemake) -> Iterator[Callable]:
    """Open the job's log, check its inputs, and yield the stage's function with its arguments filled in by name.

    These are the rule's named inputs and outputs (a folder of arrays for its zarr.json; inputs of no files are left out),
    the stage's settings and the rule's further arguments; threads, device and wildcards go to functions that take them.
    What the function writes carries the job's record; an output called `record` is the record itself, as JSON. What the job
    took is written under results/benchmarks, as its log is under results/logs.

    snakemake: as scripts find it. Its params `job` and `expects` are made by `job` of workflow/rules/inputs.smk.
    """
    start = process_start()
    keep_memory()
    with job_log(snakemake.log[0]):
        asked = snakemake.params.job
        for path, identities in snakemake.params.expects.items():
            _check(Path(path), identities)
        outputs = _named(snakemake.output)
        record_file = outputs.pop("record", None)
        given = {**_named(snakemake.input), **outputs, **asked["arguments"]}
        function = _function(asked["runs"])
        if asked["stage"] is None:  # for other programs, whose files have no room for a record
            yield partial(function, **given)
        else:
            depends_on = [asked[key] for key in ("stage", "settings", "version", "inputs")]
            about = {**snakemake.wildcards, "threads": snakemake.threads, "device": snakemake.resources.get("device")}
            with recording(make_record(*depends_on, code=code_identity(*asked["modules"]))):
                yield partial(function, **_filled(function, given, asked["settings"], about))
                if record_file is not None:
                    write_json(record_file, {"record": current_record()})
        try:
            write_usage(_of_costs(snakemake.log[0]), start)
        except OSError as error:  # what the job made is whole
            logger.warning("what it took is not written (%s)", reason(error))


def _of_costs(log: str | Path) -> Path:
    return Path(str(log).replace("results/logs/", "results/benchmarks/", 1)).with_suffix(".tsv")


def _check(path: Path, identities: list[str]) -> None:
    """Raise AtlasError unless the file (or folder of arrays) carries the identities of the jobs it must come from."""
    if carries(path / ARRAYS if path.is_dir() else path, identities):
        return
    if not path.exists():
        raise AtlasError(f"{path}: is not there any more; run again, and it will be made")
    expected = f"identity {identities[0]}" if len(identities) == 1 else f"the identities of {len(identities)} jobs"
    raise AtlasError(f"{path}: made by other settings or inputs (expected {expected}). {REMAKE}")


def _named(files) -> dict[str, str | list[str]]:
    """Snakemake's named inputs or outputs as arguments."""
    given = {
        name: _folder(value) if isinstance(value, str) else list(map(_folder, value)) for name, value in files.items()
    }
    return {name: value for name, value in given.items() if value}


def _folder(path: str) -> str:
    return str(Path(path).parent) if Path(path).name == ARRAYS else str(path)


def _function(runs: str) -> Callable:
    module, name = runs.split(":")
    return getattr(import_module(f"sae_atlas.{module}"), name)


def _filled(function: Callable, given: dict, settings: dict, about: dict) -> dict:
    """All arguments. Settings that only repeat a wildcard, and what tells about the job, go to functions that take them."""
    taken = inspect.signature(function).parameters
    settings = {name: value for name, value in as_arguments(settings).items() if name in taken or name not in about}
    return {name: value for name, value in about.items() if name in taken} | settings | given


def as_arguments(settings: dict) -> dict:
    """The settings of a stage that its function takes."""
    return {name: value for name, value in settings.items() if name not in NO_ARGUMENT}
