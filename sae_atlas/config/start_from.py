"""The key `start_from` of a recipe: the weights at which its training begins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import PlainValidator

from sae_atlas.config.keys import Name, Section, Text, Whole, Words, key
from sae_atlas.config.published import has_snapshots
from sae_atlas.config.start_files import FIELD
from sae_atlas.io.errors import AtlasError, nearest
from sae_atlas.io.sizes import format_size


def _layer(value: object) -> int | str:
    if value != "previous" and (type(value) is not int or not 0 <= value <= 9999):
        raise ValueError
    return value


Layer = Annotated[
    int | Literal["previous"],
    PlainValidator(_layer, json_schema_input_type=int | Literal["previous"]),
    Words("`previous` or a block index"),
]


class StartFrom(Section):
    """Weights at which training begins; Adam and its warm-up begin anew. In short the name of a recipe, or else a path."""

    recipe: Name = key(
        "a recipe of this config, which trains or takes published SAEs; its own name with `layer: previous`",
        otherwise="`path` says it",
    )
    layer: Layer = key(
        "whose SAE every layer begins at: a block index, or `previous`, the layer before it in this atlas (its first begins at "
        "random directions)",
        otherwise="the same layer",
    )
    snapshot: Whole = key(
        "train tokens of the other recipe's SAE. Behind a snapshot that this atlas trains the recipe goes on, and has those "
        "after it",
        otherwise="the final one, which an atlas with `training.snapshots` has only of published SAEs",
        ge=1,
    )
    path: Text = key(
        "an SAE on disk in any format that is read (a folder or file), or a release made here. It may hold `{layer}`",
        otherwise="`recipe` says it",
    )


def problems(recipes: dict, training: Section) -> Iterator[str]:
    """Lines for starts that contradict themselves or the rest of the config. recipes: sections by name."""
    starts = {name: recipe.start_from for name, recipe in recipes.items() if getattr(recipe, "start_from", None)}
    for name, start in starts.items():
        where = f"recipes.{name}.start_from"
        if (start.recipe is None) == (start.path is None):
            yield f"{where}: holds {'neither' if start.path is None else 'both'} of `recipe` and `path`; write one of them"
        elif start.path is not None:
            if "{" in str(Path(start.path.replace(FIELD, "")).expanduser().absolute()):
                yield f"{where}.path: {start.path!r} has a brace that is not {FIELD}, which Snakemake fills in; rename it"
            for given in ("layer", "snapshot"):
                if getattr(start, given) is not None:
                    yield f"{where}.{given}: does nothing with `path`; write it into the path"
        elif start.recipe not in recipes:
            yield f"{where}.recipe: {start.recipe!r} is no recipe here; {nearest(start.recipe, list(recipes))}"
        else:
            yield from _of_recipe(name, start, recipes, starts, training)


def _of_recipe(name: str, start: StartFrom, recipes: dict, starts: dict, training: Section) -> Iterator[str]:
    where = f"recipes.{name}.start_from"
    if start.recipe == name:
        if start.layer != "previous":
            yield f"{where}.layer: a recipe can begin at its own SAEs of the `previous` layer alone; write that"
        if start.snapshot is not None:
            yield f"{where}.snapshot: the layer before has the same first snapshot; remove it"
        return
    passed = [name]
    while passed[-1] in starts and starts[passed[-1]].recipe not in (None, passed[-1]):
        if (source := starts[passed[-1]].recipe) in passed:
            yield f"{where}.recipe: {' begins at '.join([*passed, source])}, in a circle; name another"
            return
        passed.append(source)
    published = getattr(recipes[start.recipe], "pretrained", None)
    if published is None:
        begun = (starts[start.recipe].snapshot or 0) if start.recipe in starts else 0
        there = [tokens for tokens in training.snapshots if tokens > begun]
    else:
        there = training.snapshots if has_snapshots(recipes[start.recipe].plain()) else []
    if start.snapshot is not None and start.snapshot not in there:
        names = [format_size(tokens) for tokens in there]
        yield (
            f"{where}.snapshot: {start.recipe} has no earlier snapshot {format_size(start.snapshot)}; "
            f"{nearest(format_size(start.snapshot), names) if names else 'remove it'}"
        )
    elif start.snapshot is None and published is None and training.snapshots:
        yield (
            f"{where}.snapshot: missing; the stores behind the final SAE of {start.recipe} are gone when it is trained; "
            "name one of training.snapshots, from which this recipe goes on"
        )


def check_layers(recipes: dict, layers: list[int]) -> None:
    """Raise AtlasError where a recipe, as plain values, begins at the SAE of a layer that the atlas does not have."""
    for name, recipe in recipes.items():
        layer = recipe.get("start_from", {}).get("layer", layers[0])
        if layer != "previous" and layer not in layers:
            raise AtlasError(
                f"recipes.{name}.start_from.layer: no layer {layer} among activations.layers; name one of them"
            )
