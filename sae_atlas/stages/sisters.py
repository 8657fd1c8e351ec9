"""Which recipes of an atlas can be compared: seeds of one recipe, and one recipe at several sparsities."""

from functools import cache
from itertools import takewhile

SEED = ("seed",)
SPARSITY = ("k", "l1", "jumprelu")  # keys that say how sparse a recipe is


def other_seeds(atlas, recipe: str) -> list[str]:
    """The trained recipes that differ from this one by their seed alone."""
    return [name for name in _seeds(atlas).get(_without(atlas, recipe, SEED), ()) if name != recipe]


@cache  # of an atlas: every recipe's figure asks
def curves(atlas) -> dict[str, list[list[str]]]:
    """Recipes that differ in sparsity and seed alone, by what their names share: the seeds of every sparsity, at least two."""
    families: dict[str, list[list[str]]] = {}
    for seeds in _seeds(atlas).values():
        families.setdefault(_without(atlas, seeds[0], (*SEED, *SPARSITY)), []).append(seeds)
    named: dict[str, list[list[str]]] = {}
    for family in families.values():
        if len(family) > 1:
            every = [name for seeds in family for name in seeds]
            shared = takewhile(
                lambda part: len(set(part)) == 1, zip(*(name.split("-") for name in every), strict=False)
            )
            name = "-".join(part[0] for part in shared)
            named[every[0] if not name or name in named else name] = family
    return named


@cache
def _seeds(atlas) -> dict[str, list[str]]:
    """The trained recipes that are alike but for their seed."""
    alike: dict[str, list[str]] = {}
    for recipe in atlas.trained:
        alike.setdefault(_without(atlas, recipe, SEED), []).append(recipe)
    return alike


def _without(atlas, recipe: str, keys: tuple[str, ...]) -> str:
    return str({key: value for key, value in atlas.config["recipes"][recipe].items() if key not in keys})
