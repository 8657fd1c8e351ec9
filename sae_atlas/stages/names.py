"""Scores and names depend on what was kept of the text, and on how it is asked."""

from sae_atlas.stages.declare import stage

OF_SCORES = ("scores.py", "decoder.py", "selectivity.py", "peaks.py", "probes.py")
OF_NAMES = (
    "names.py",
    "decoder.py",
    "naming_examples.py",
    "name_patterns.py",
    "offline_namer.py",
    "row_namer.py",
    "model_namer.py",
    "endpoint.py",
    "judges.py",
    "trials.py",
)
NOT_IN_IDENTITY = ("key_variable", "price")  # of an endpoint, what changes no name


@stage(*(f"features/{file}" for file in OF_SCORES), "io/tables.py", runs="features.scores:score_latents")
def score_latents(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    return dict(atlas.config["features"]["scores"]), _inputs(atlas, recipe, layer)


@stage(*(f"features/{file}" for file in OF_NAMES), "io/tables.py", runs="features.names:name_latents", version=2)
def name_latents(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    features = atlas.config["features"]
    endpoint = features["names"].get("endpoint")
    if endpoint is not None:
        endpoint = {key: value for key, value in endpoint.items() if key not in NOT_IN_IDENTITY}
    inputs = _inputs(atlas, recipe, layer) | atlas.row_texts()
    settings = {"layer": layer, "window": features["window"], "endpoint": endpoint}
    scores = features["names"].get("scores")
    return settings | ({"scores": scores} if scores else {}), inputs


def _inputs(atlas, recipe: str, layer: int) -> dict:
    return {
        "base_model": atlas.identity("prepare_model"),
        "corpus": atlas.identity("tokenize"),
        "contexts": atlas.identity("top_contexts", recipe=recipe, layer=layer),
    }
