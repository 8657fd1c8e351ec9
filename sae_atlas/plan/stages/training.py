"""An SAE depends on its recipe, on the window's store, and on the snapshot before it."""

from sae_atlas.plan.stages.declare import stage


@stage("saes", "kernels", "training")
def train_sae(atlas, recipe: str, layer: int, snapshot: str) -> tuple[dict, dict]:
    values = atlas.config["recipes"][recipe]
    start, stop = atlas.window(snapshot)
    # Where the decay does not reach the window, the total does not matter: a longer run leaves it alone.
    decaying = stop > (1 - values["decay"]) * atlas.tokens
    settings = {"recipe": values, "start": start, "stop": stop, "total": atlas.tokens if decaying else None}
    inputs = {"store": atlas.identity("shard_activations", snapshot=snapshot, layer=layer)}
    previous = atlas.previous(snapshot)
    if previous is not None:
        inputs["previous"] = atlas.identity("train_sae", recipe=recipe, layer=layer, snapshot=previous)
    return settings, inputs
