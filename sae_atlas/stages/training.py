"""An SAE depends on its recipe, on the window's store, and on the snapshot before it; a published one on its files."""

from sae_atlas.config.published import of_layer, path_in_release
from sae_atlas.sites import HEADS, NORMALISED
from sae_atlas.stages.activations import target_of
from sae_atlas.stages.declare import stage
from sae_atlas.training.schedule import ANNEALED_FROM


@stage("saes", "kernels", "training", runs="training.train:train")
def train_sae(atlas, recipe: str, layer: int, snapshot: str) -> tuple[dict, dict]:
    values = {key: value for key, value in atlas.config["recipes"][recipe].items() if key != "finetune"}
    settings, store = _window(atlas, values, *atlas.window(snapshot)), atlas.store_of(snapshot)
    if store != snapshot:
        settings["store_stop"] = atlas.tokens
    inputs = {"store": atlas.identity("shard_activations", snapshot=store, layer=layer)}
    previous = atlas.previous(snapshot, recipe)
    if previous is not None:
        inputs["previous"] = atlas.identity("train_sae", recipe=recipe, layer=layer, snapshot=previous)
    elif start := atlas.start_of(recipe, layer):
        inputs["start_from"] = atlas.identity(start[0], **start[1])
    return settings, inputs


@stage(
    "saes",
    "kernels",
    "training",
    "activations/outliers.py",
    "metrics/held_out.py",
    "metrics/losses.py",
    "sites",
    runs="training.finetune:finetune",
)
def finetune_sae(atlas, recipe: str, layer: int, snapshot: str) -> tuple[dict, dict]:
    """The last tokens of a recipe that fine-tunes; snapshot: the final one."""
    values = atlas.config["recipes"][recipe]
    settings = _window(atlas, values, atlas.tokens - values["finetune"]["tokens"], atlas.tokens) | {
        "layer": layer,
        "site": atlas.config["activations"]["site"],
        "model_dtype": atlas.config["base_model"]["dtype"],
        "contexts_per_batch": atlas.config["evaluation"]["contexts_per_batch"],
        "outlier_norm": atlas.config["activations"]["outlier_norm"],
        **target_of(atlas),
    }
    previous = atlas.identity("train_sae", recipe=recipe, layer=layer, snapshot=atlas.previous(snapshot, recipe))
    text = {"base_model": atlas.identity("prepare_model"), "corpus": atlas.identity("tokenize")}
    return settings, {**text, "previous": previous}


def _window(atlas, recipe: dict, start: int, stop: int) -> dict:
    """Settings of the training over the tokens start:stop."""
    # Where no schedule over all tokens reaches the window, the total does not matter: a longer run leaves it alone.
    decaying = stop > (1 - recipe["decay"]) * atlas.tokens
    annealing = "anneal_to" in recipe.get("l1", {}) and stop > ANNEALED_FROM * atlas.tokens
    settings = {
        "recipe": recipe,
        "start": start,
        "stop": stop,
        "total": atlas.tokens if decaying or annealing else None,
    }
    return settings | {"gpu_products": atlas.config["training"]["gpu_products"]}


@stage("publish/formats", "saes/checkpoint.py", runs="publish.formats.import_start:import_start")
def import_start(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    path = atlas.config["recipes"][recipe]["start_from"]["path"]
    settings = {"path": path, "layer": layer, "is_transcoder": "target" in atlas.config["activations"]}
    return settings, atlas.content("import_start", recipe=recipe, layer=layer)


@stage(
    "publish/formats",
    "saes/checkpoint.py",
    "sites/norms.py",
    "sites/values.py",
    runs="publish.formats.import_sae:import_sae",
    version=2,
)
def import_sae(atlas, recipe: str, layer: int, snapshot: str) -> tuple[dict, dict]:
    values = atlas.config["recipes"][recipe]
    settings = {
        "recipe": of_layer(values, layer),
        "where": path_in_release(values, layer, atlas.published(snapshot)),
        "layer": layer,
        "tokens": atlas.tokens_of(recipe, snapshot),
        "base": atlas.config["base_model"]["name"],
        "site": atlas.config["activations"]["site"],
        **target_of(atlas),
    }
    if revision := atlas.config["base_model"].get("revision"):
        settings["revision"] = revision
    if "target" in settings and values["pretrained"]["format"] == "gemma_scope":
        settings["reads"] = NORMALISED
    if values["pretrained"]["format"] == "connor_rob_hook_z":
        settings["reads"] = HEADS
    content = atlas.content("import_sae", recipe=recipe, layer=layer, snapshot=snapshot)
    return settings, {"base_model": atlas.identity("prepare_model"), **content}
