"""What a config says of recipes in short, written out: sweeps as sister runs, a start as its section."""

from itertools import product
from math import prod

from sae_atlas.config.keys import section_of
from sae_atlas.config.recipes import Recipe
from sae_atlas.io.errors import nearest

MOST = 1000  # recipes of a sweep: each is trained on every layer
KEYS = {
    **{name: field for name, field in Recipe.model_fields.items() if not section_of(field) and name != "sweep"},
    **{
        f"{name}.{inner}": field
        for name, section in Recipe.model_fields.items()
        if section_of(section)
        for inner, field in section_of(section).model_fields.items()
    },
}


def written_out(config: dict) -> tuple[dict, list[str]]:
    """The config with every sweep as recipes of its own, every `start_from` as a section; and lines of what is wrong.

    A recipe `topk` with `sweep: {k: [16, 32], seed: [0, 1]}` is the recipes `topk-k16-seed0`, ..., `topk-k32-seed1`.
    """
    recipes, problems = config.get("recipes"), []
    if not isinstance(recipes, dict):
        return config, []
    every: dict[str, object] = {}
    for name, recipe in recipes.items():
        swept, lines = _swept(name, recipe)
        problems += lines
        problems += [f"recipes.{each}: is made by a sweep, too; rename one" for each in swept if each in every]
        every |= swept
    return config | {"recipes": {name: _with_start(recipe, every) for name, recipe in every.items()}}, problems


def _swept(name: str, recipe: object) -> tuple[dict[str, object], list[str]]:
    if not isinstance(recipe, dict) or "sweep" not in recipe or "pretrained" in recipe:
        return {name: recipe}, []
    sweep, where = recipe["sweep"], f"recipes.{name}.sweep"
    shared = {key: value for key, value in recipe.items() if key != "sweep"}
    if not isinstance(sweep, dict) or not sweep:
        return {}, [f"{where}: {sweep!r} does not fit; write keys of the recipe, each with a list of values"]
    problems = [line for key, values in sweep.items() for line in _problems(f"{where}.{key}", key, values, shared)]
    if not problems and prod(map(len, sweep.values())) > MOST:
        problems = [f"{where}: makes {prod(map(len, sweep.values())):,} recipes; {MOST:,} are the most"]
    if problems:
        return {}, problems
    combinations = (dict(zip(sweep, values, strict=True)) for values in product(*sweep.values()))
    return {_name(name, values): _with_values(shared, values) for values in combinations}, []


def _problems(where: str, key: str, values: object, shared: dict):
    section, _, inner = key.partition(".")
    if key not in KEYS:
        yield f"{where}: no such key of a recipe; {nearest(key, KEYS)}"
    elif not isinstance(values, list) or not values:
        yield f"{where}: {values!r} does not fit; write a list of values"
    elif any(isinstance(value, (list, dict)) or value is None for value in values):
        yield f"{where}: recipes are named by the values; write numbers or words"
    elif len({str(value) for value in values}) < len(values):
        yield f"{where}: holds a value twice; remove one"
    elif inner in shared.get(section, {}) if inner and isinstance(shared.get(section), dict) else key in shared:
        yield f"{where}: the recipe gives {key}, too; remove it there"


def _name(name: str, values: dict[str, object]) -> str:
    return "-".join([name, *(f"{key.rpartition('.')[2]}{value}" for key, value in values.items())])


def _with_values(shared: dict, values: dict[str, object]) -> dict:
    recipe = dict(shared)
    for key, value in values.items():
        section, _, inner = key.partition(".")
        recipe[section] = {**recipe.get(section, {}), inner: value} if inner else value
    return recipe


def _with_start(recipe: object, recipes: dict) -> object:
    """Text names a recipe of the config, or else a path."""
    if not isinstance(recipe, dict) or not isinstance(start := recipe.get("start_from"), str):
        return recipe
    return recipe | {"start_from": {"recipe" if start in recipes else "path": start}}
