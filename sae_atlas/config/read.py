"""The config as the jobs get it: checked, complete, with sizes as numbers and layers as a list."""

from pathlib import Path

from sae_atlas.config import activations, base_model, features, published, start_from, training
from sae_atlas.config.checks import checked, checked_recipe
from sae_atlas.config.dtype import SETTLED, settled
from sae_atlas.config.limits import limit_problems, read_plain, shortened
from sae_atlas.config.misread import check_misread
from sae_atlas.config.paths import resolved
from sae_atlas.config.sweeps import written_out
from sae_atlas.config.without_model import OF_ROWS
from sae_atlas.io.devices import SPREAD
from sae_atlas.io.errors import AtlasError
from sae_atlas.own_arrays.files import SITE


def read_config(file: str | Path, folder: str | Path | None = None) -> dict:
    """The config in `file`, checked and complete. folder: of its run. Raises AtlasError for every mistake, also of YAML."""
    values = read_plain(file) or {}
    check_misread([file])
    return complete_config(values, str(file), folder and Path(folder, SETTLED))


def complete_config(config: dict, file: str, kept_dtype: Path | None = None) -> dict:
    """`config` checked and complete, as plain values. `file` is named in errors. kept_dtype: see config.dtype.settled.

    Raises AtlasError with one line per problem, and if the number of layers is not known (hub not reachable).
    """
    problems, sections = limit_problems(config), {}
    if not problems:
        config, problems = written_out(config)
    if not problems:
        config, problems = resolved(config, Path(file).parent)
    if not problems:
        sections, problems = checked(config)
    if problems:
        raise AtlasError("\n".join(f"{file}: {shortened(problem)}" for problem in problems))
    recipes = {name: recipe.plain() for name, recipe in sections.pop("recipes").items()}
    complete = {name: section.plain() for name, section in sections.items()} | {"recipes": recipes}
    device = complete["training"]["device"]
    complete["model_device"] = SPREAD if "device_map" in complete["base_model"] else device
    complete["device"] = device  # it changes no numbers, as the device of the base model does not
    complete["base_model"] = base_model.completed(complete["base_model"], complete["corpus"]["context"])
    complete["base_model"]["dtype"] = settled(complete["base_model"]["dtype"], device, kept_dtype)
    if complete["base_model"]["source"] in OF_ROWS:
        complete["activations"]["site"] = SITE
    try:
        complete["activations"] = activations.completed(complete["activations"], complete["base_model"])
        start_from.check_layers(recipes, complete["activations"]["layers"])
        for name, recipe in recipes.items():
            recipes[name] = published.completed(recipe, name, complete)
    except AtlasError as error:
        raise AtlasError(f"{file}: {error}") from error
    complete["training"] = training.completed(complete["training"])
    if "features" in complete:
        layers, tokens = complete["activations"]["layers"], complete["corpus"]["tokens"]
        complete["features"] = features.completed(complete["features"], layers, tokens)
    return complete


def complete_recipe(values: dict, where: str = "recipe") -> dict:
    """One recipe, checked and complete, as plain values. `where` is the key path that errors name.

    Raises AtlasError with one line per problem.
    """
    recipe, problems = checked_recipe(values, where)
    if "sweep" in values:
        problems = [f"{where}.sweep: only the recipes of a config have one; write its values"]
    if problems:
        raise AtlasError("\n".join(problems))
    return recipe.plain()
