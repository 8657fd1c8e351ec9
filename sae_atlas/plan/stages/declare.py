"""How a stage is declared: the modules that determine its numbers, and a function that gives its settings and inputs."""

from collections.abc import Callable
from typing import NamedTuple


class Stage(NamedTuple):
    modules: tuple[str, ...]  # under sae_atlas/: a room or a file
    of: Callable  # (atlas, **cell) -> (settings, identities of the inputs by their names in the rule)
    version: int = 1  # raised when its numbers change


STAGES: dict[str, Stage] = {}


def stage(*modules: str) -> Callable:
    """Declare the function of a stage, under its own name: that of its rule and of its script."""

    def register(function: Callable) -> Callable:
        STAGES[function.__name__] = Stage(modules, function)
        return function

    return register
