"""What the latents mean depends on the final SAE, on the text that is read and on how much of it is kept."""

from sae_atlas.plan.stages.activations import saved_dtype
from sae_atlas.plan.stages.declare import stage


@stage("activations/save.py", "arrays.py", "sites.py")
def save_text(atlas) -> tuple[dict, dict]:
    """The end of the train text: what no SAE has seen, unless training uses all of the corpus."""
    stop = atlas.config["corpus"]["tokens"]
    settings = {
        "site": atlas.config["activations"]["site"],
        "start": stop - atlas.config["features"]["tokens"],
        "stop": stop,
        "dtype": saved_dtype(atlas),
        "model_dtype": atlas.config["base_model"]["dtype"],
        "contexts_per_batch": atlas.config["activations"]["contexts_per_batch"],
    }
    return settings, {"base_model": atlas.identity("prepare_model"), "corpus": atlas.identity("tokenize")}


CONTEXTS = ("text.py", "kept.py", "bands.py", "documents.py", "top_contexts.py", "logit_lens.py")


@stage(*(f"features/{file}" for file in CONTEXTS), "saes/sae.py", "saes/parts.py", "tables.py", "sites.py")
def top_contexts(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    features = atlas.config["features"]
    settings = {
        "layer": layer,
        "site": atlas.config["activations"]["site"],
        "model_dtype": atlas.config["base_model"]["dtype"],
        "contexts": features["contexts"],
        "window": features["window"],
        "outlier_norm": atlas.config["activations"]["outlier_norm"],
    }
    text = {"held_out": "save_held_out"} if features["split"] == "held_out" else {"activations": "save_text"}
    return settings, {
        "base_model": atlas.identity("prepare_model"),
        "corpus": atlas.identity("tokenize"),
        **{name: atlas.identity(stage) for name, stage in text.items()},
        "checkpoint": atlas.identity(atlas.maker(recipe), recipe=recipe, layer=layer, snapshot=atlas.last),
    }


@stage("features/evolution.py", "metrics/directions.py", "tables.py", "saes/checkpoint.py")
def evolution(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    """The earlier snapshots, and the layers next to it; directions inside a module mean something else in every layer."""
    earlier = atlas.snapshots_of(recipe)[:-1]
    at = atlas.layers.index(layer)
    beside = (
        []
        if "{layer}" in atlas.config["activations"]["site"]
        else [*atlas.layers[:at][-1:], *atlas.layers[at + 1 :][:1]]
    )

    def made(layer: int, snapshot: str) -> str:
        return atlas.identity(atlas.maker(recipe), recipe=recipe, layer=layer, snapshot=snapshot)

    inputs = {"checkpoint": made(layer, atlas.last)}
    inputs |= {snapshot: made(layer, snapshot) for snapshot in earlier}
    inputs |= {f"layer{other:02d}": made(other, atlas.last) for other in beside}
    return {"snapshots": earlier, "layers": beside}, inputs
