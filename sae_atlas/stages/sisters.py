"""Which recipes of an atlas can be compared: seeds of one recipe, and one recipe at several sparsities."""

from itertools import takewhile

SPARSITY = ("k", "l1", "jumprelu")  # keys that say how sparse a recipe is


def other_seeds(atlas, recipe: str) -> list[str]:
    """The trained recipes that differ from this one by their seed alone."""
    if recipe not in atlas.trained:
        return []
    alike = _without(atlas, recipe, ("seed",))
    return [name for name in atlas.trained if name != recipe and _without(atlas, name, ("seed",)) == alike]


def curves(atlas) -> dict[str, list[list[str]]]:
    """Recipes that differ in sparsity and seed alone, by what their names share: the seeds of every sparsity, at least two."""
    families: dict[str, dict[str, list[str]]] = {}
    for recipe in atlas.trained:
        family = families.setdefault(_without(atlas, recipe, ("seed", *SPARSITY)), {})
        family.setdefault(_without(atlas, recipe, ("seed",)), []).append(recipe)
    named: dict[str, list[list[str]]] = {}
    for family in families.values():
        if len(family) > 1:
            every = [name for seeds in family.values() for name in seeds]
            shared = takewhile(
                lambda part: len(set(part)) == 1, zip(*(name.split("-") for name in every), strict=False)
            )
            name = "-".join(part[0] for part in shared)
            named[every[0] if not name or name in named else name] = list(family.values())
    return named


def _without(atlas, recipe: str, keys: tuple[str, ...]) -> str:
    return str({key: value for key, value in atlas.config["recipes"][recipe].items() if key not in keys})
