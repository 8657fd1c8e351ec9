"""Paths in a config: seen from the folder of the run, or from the config's own."""

import os
from pathlib import Path

from sae_atlas.own_arrays.files import FIELD, paths_matching


def resolved(config: dict, folder: Path) -> tuple[dict, list[str]]:
    """The config with every relative `path` as it is seen from the folder of the run, and lines of what is wrong.

    One that leads to something there stays as it is written, as identities hold it; else it is taken from `folder`, the
    config's own. A path that leads to something in both is ambiguous.
    """
    problems = []

    def value(given: object, where: str) -> object:
        if isinstance(given, dict):
            return {name: value(each, f"{where}.{name}" if where else str(name)) for name, each in given.items()}
        if where.rpartition(".")[2] != "path":
            return given
        return [path(each, where) for each in given] if isinstance(given, list) else path(given, where)

    def path(given: object, where: str) -> object:
        if not isinstance(given, str) or not given or given[0] == "~" or not (beside := _existing(str(folder / given))):
            return given
        if not (here := _existing(given)):
            return os.path.relpath(folder / given)
        if not Path(here).samefile(beside):
            problems.append(
                f"{where}: {given} is in {Path().absolute()} and in {folder.absolute()}; write the whole path"
            )
        return given

    return value(config, ""), problems


def _existing(path: str) -> str | None:
    """What lies at a path; of one with `{layer}` in it the first that does; None if nothing does."""
    if FIELD in path and not os.path.exists(path):
        return next((str(match) for _, match in paths_matching(path)), None)
    return path if os.path.exists(path) else None  # unlike Path.exists, False for a name that no file can have
