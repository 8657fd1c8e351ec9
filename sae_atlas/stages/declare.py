"""How a stage is declared: its version, its modules, and a function that gives its settings and inputs."""

import inspect
from collections.abc import Callable
from typing import NamedTuple


class Stage(NamedTuple):
    modules: tuple[str, ...]  # under sae_atlas/: a room or a file
    runs: str  # module under sae_atlas and function in it
    of: Callable  # (atlas, **cell) -> (settings, identities of the inputs by their names in the rule)
    version: int  # raised when the stage gives other numbers for the same settings and inputs
    on_rows: str | None  # in place of `runs` where there are saved activations and no model
    measures: Callable | None  # of a stage that measures SAEs beside evaluate_sae: does the atlas ask for it?

    @property
    def cell(self) -> set[str]:
        """Names of what a job of the stage is made for: recipe, layer, snapshot or none of them."""
        return set(inspect.signature(self.of).parameters) - {"atlas"}


STAGES: dict[str, Stage] = {}


def stage(
    *modules: str, runs: str, version: int = 1, on_rows: str | None = None, measures: Callable | None = None
) -> Callable:
    """Declare a stage under the name of the decorated function, which is also its rule's.

    modules: that its code is in; runs: `module:function` under sae_atlas, which gets the rule's files and the settings;
    on_rows: the function that does the stage's work on rows of saved activations, if that is another;
    measures: of a stage that measures SAEs beside evaluate_sae, whether an atlas asks for it (evaluation.further_stages).

    An edited message, a faster kernel or a new architecture leaves the version alone: what is finished stays finished.
    """

    def register(function: Callable) -> Callable:
        STAGES[function.__name__] = Stage(modules, runs, function, version, on_rows, measures)
        return function

    return register
