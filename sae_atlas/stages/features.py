"""What the latents mean depends on the final SAE, on the text that is read and on how much of it is kept."""

from sae_atlas.stages.activations import FUNCTIONS, PASS, pass_over
from sae_atlas.stages.declare import stage

OF_MATCH = {"contexts": 3, "window": 16}  # how much of each is kept and shown, window in tokens


@stage(*PASS, **FUNCTIONS)
def save_text(atlas) -> tuple[dict, dict]:
    """The end of the train text: what no SAE has seen, unless training uses all of the corpus."""
    stop = atlas.config["corpus"]["tokens"]
    return pass_over(atlas, stop - atlas.config["features"]["tokens"], stop, atlas.text_layers)


ENCODING = ("saes/sae.py", "saes/parts.py", "saes/matching_pursuit.py", "kernels/pursuit.py")
OF_SAES = ("activations/outliers.py", *ENCODING, "metrics/active.py")
OF_MATCHES = ("text.py", "top_activations.py", "bands.py", "top_contexts.py", "matches.py")
CONTEXTS = (
    "text.py",
    "top_activations.py",
    "bands.py",
    "documents.py",
    "top_contexts.py",
    "logit_lens.py",
    "decoder.py",
)


@stage(
    *(f"features/{file}" for file in CONTEXTS),
    *OF_SAES,
    "io/tables.py",
    "sites",
    runs="features.top_contexts:top_contexts",
    version=3,
)
def top_contexts(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    features = atlas.config["features"]
    settings = {
        "layer": layer,
        "site": atlas.decoder_site,
        "model_dtype": atlas.config["base_model"]["dtype"],
        "contexts": features["contexts"],
        "window": features["window"],
        "outlier_norm": atlas.config["activations"]["outlier_norm"],
    }
    return settings, {
        "base_model": atlas.identity("prepare_model"),
        "corpus": atlas.identity("tokenize"),
        **_text(atlas, [layer]),
        "checkpoint": atlas.checkpoint(recipe, layer),
    }


@stage(
    "features/evolution.py",
    "metrics/directions.py",
    "io/tables.py",
    "saes/checkpoint.py",
    runs="features.evolution:evolution",
)
def evolution(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    """The earlier snapshots, and the layers next to it."""
    settings = {"snapshots": atlas.snapshots_of(recipe)[:-1], "layers": atlas.neighbour_layers(layer)}
    return settings, {"checkpoint": atlas.checkpoint(recipe, layer), **_elsewhere(atlas, recipe, layer)}


@stage(
    *(f"features/{file}" for file in OF_MATCHES),
    *OF_SAES,
    "io/tables.py",
    runs="features.matches:contexts_of_matches",
    version=2,
)
def contexts_of_matches(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    """The same text for every place that `evolution` looked at."""
    settings = {"layer": layer, **OF_MATCH, "outlier_norm": atlas.config["activations"]["outlier_norm"]}
    return settings, {
        "corpus": atlas.identity("tokenize"),
        **_text(atlas, [layer, *atlas.neighbour_layers(layer)]),
        "evolution": atlas.identity("evolution", recipe=recipe, layer=layer),
        **_elsewhere(atlas, recipe, layer),
    }


def _text(atlas, layers: list[int]) -> dict:
    """Activations of these layers on the text that contexts are taken from."""
    text = (
        {"held_out": "save_held_out"}
        if atlas.config["features"]["split"] == "held_out"
        else {"activations": "save_text"}
    )
    return {name: atlas.passed(stage, layers) for name, stage in text.items()}


def _elsewhere(atlas, recipe: str, layer: int) -> dict:
    """Checkpoints of the earlier snapshots, and of the final one in the layers next to it."""
    earlier = {snapshot: atlas.checkpoint(recipe, layer, snapshot) for snapshot in atlas.snapshots_of(recipe)[:-1]}
    return earlier | {f"layer{other:02d}": atlas.checkpoint(recipe, other) for other in atlas.neighbour_layers(layer)}
