"""Every job of an atlas, by rule, under the name that its log and benchmark have."""

import itertools

from sae_atlas.plan.stages import STAGES
from sae_atlas.plan.stages.figures import figures
from sae_atlas.plan.stages.lifecycle import rules_of

FLOW = (
    "lifecycle",
    "base_model",
    "corpus",
    "activations",
    "training",
    "evaluation",
    "floors",
    "figures",
    "publishing",
    "features",
    "names",
    "explorer",
)  # files of plan/stages
OF_FEATURES = ("features", "names", "explorer")  # whose rules run for the layers of the config's section `features`


def jobs(atlas) -> dict[str, list[str]]:
    """Rule -> names of its jobs, in the order data flows. Without a cell of its own a rule has one job, named ``.

    The arguments of a stage say what it is made for: one job per recipe, layer and snapshot where it takes all three.
    """
    found = {rule: _names(atlas, rule) for rule in sorted(STAGES, key=_place) if _asked(atlas, rule)}
    return {rule: names for rule, names in found.items() if names}


def _asked(atlas, rule: str) -> bool:
    """Whether the config has what the rule is for."""
    floors, features = (atlas.config.get(section, {}) for section in ("floors", "features"))
    if _file(rule) == "lifecycle":
        return rule in rules_of(atlas)
    if _file(rule) in OF_FEATURES:
        return bool(features) and (rule != "save_text" or features["split"] == "train")
    if rule in ("distill", "fit_floors"):
        return "students" in floors
    if rule == "floors":
        return bool(floors)
    drawn = {name.partition("_")[2] for recipe in atlas.recipes for name in figures(atlas, recipe)}
    if rule == "match_layers":
        return "layer_flow" in drawn
    return not rule.startswith("plot_") or rule.removeprefix("plot_") in drawn


def _file(rule: str) -> str:
    return STAGES[rule].of.__module__.rpartition(".")[2]


def _place(rule: str) -> int:
    return FLOW.index(_file(rule)) if _file(rule) in FLOW else len(FLOW)


def _names(atlas, rule: str) -> list[str]:
    if rule in ("save_activations", "shard_activations") and not atlas.trained:
        return []
    looked_at = atlas.feature_layers if _file(rule) in OF_FEATURES else atlas.layers
    if rule == "save_text":
        return list(atlas.text_groups)
    if rule == "save_activations":
        return [f"{snapshot}_{group}" for snapshot, group in atlas.passes]
    cell = STAGES[rule].cell
    if rule == "model_card":
        return [atlas.sae_name(recipe, layer) for recipe in atlas.recipes for layer in atlas.layers]
    if rule == "release":
        return [atlas.release_name(recipe) for recipe in atlas.trained]
    recipes = {"train_sae": atlas.trained, "plot_training_curves": atlas.trained, "import_sae": atlas.pretrained}
    chosen = recipes.get(rule, atlas.recipes) if "recipe" in cell else [None]
    return [name for recipe in chosen for name in _of(atlas, recipe, cell, looked_at)]


def _of(atlas, recipe: str | None, cell: set[str], looked_at: list[int]):
    layers = [f"layer{layer:02d}" for layer in looked_at] if "layer" in cell else [""]
    known = atlas.snapshots_of(recipe) if recipe else atlas.snapshots
    snapshots = [f"_{snapshot}" for snapshot in known] if "snapshot" in cell else [""]
    for layer, snapshot in itertools.product(layers, snapshots):
        yield f"{recipe}/{layer}{snapshot}".rstrip("/") if recipe else f"{layer}{snapshot}"
