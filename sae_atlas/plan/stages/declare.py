"""How a stage is declared: its version, its modules, and a function that gives its settings and inputs."""

import inspect
from collections.abc import Callable
from typing import NamedTuple


class Stage(NamedTuple):
    modules: tuple[str, ...]  # under sae_atlas/: a room or a file
    of: Callable  # (atlas, **cell) -> (settings, identities of the inputs by their names in the rule)
    version: int  # raised when the stage gives other numbers for the same settings and inputs

    @property
    def cell(self) -> set[str]:
        """Names of what a job of the stage is made for: recipe, layer, snapshot or none of them."""
        return set(inspect.signature(self.of).parameters) - {"atlas"}


STAGES: dict[str, Stage] = {}


def stage(*modules: str, version: int = 1) -> Callable:
    """Declare the function of a stage, under its own name: that of its rule and of its script.

    An edited message, a faster kernel or a new architecture leaves the version alone: what is finished stays finished.
    """

    def register(function: Callable) -> Callable:
        STAGES[function.__name__] = Stage(modules, function, version)
        return function

    return register
