"""An SAE depends on its recipe, on the window's store, and on the snapshot before it; a published one on its files."""

from sae_atlas.config.published import of_layer, path_in_release
from sae_atlas.stages.activations import target_of
from sae_atlas.stages.declare import stage


@stage("saes", "kernels", "training", runs="training.train:train")
def train_sae(atlas, recipe: str, layer: int, snapshot: str) -> tuple[dict, dict]:
    values = atlas.config["recipes"][recipe]
    start, stop = atlas.window(snapshot)
    # Where the decay does not reach the window, the total does not matter: a longer run leaves it alone.
    decaying = stop > (1 - values["decay"]) * atlas.tokens
    settings = {"recipe": values, "start": start, "stop": stop, "total": atlas.tokens if decaying else None}
    settings["gpu_products"] = atlas.config["training"]["gpu_products"]
    inputs = {"store": atlas.identity("shard_activations", snapshot=snapshot, layer=layer)}
    previous = atlas.previous(snapshot, recipe)
    if previous is not None:
        inputs["previous"] = atlas.identity("train_sae", recipe=recipe, layer=layer, snapshot=previous)
    elif start := atlas.start_of(recipe, layer):
        inputs["start_from"] = atlas.identity(start[0], **start[1])
    return settings, inputs


@stage("publish/formats", "saes/checkpoint.py", runs="publish.formats.import_start:import_start")
def import_start(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    path = atlas.config["recipes"][recipe]["start_from"]["path"]
    return {"path": path, "layer": layer}, atlas.content("import_start", recipe=recipe, layer=layer)


@stage("publish/formats", "saes/checkpoint.py", runs="publish.formats.import_sae:import_sae")
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
    content = atlas.content("import_sae", recipe=recipe, layer=layer, snapshot=snapshot)
    return settings, {"base_model": atlas.identity("prepare_model"), **content}
