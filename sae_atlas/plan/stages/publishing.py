"""What is published depends on the measurement and on the names of base model and text."""

from sae_atlas.plan.stages.declare import stage
from sae_atlas.plan.stages.evaluation import evaluations


def sources(atlas) -> dict:
    return {"base_model": atlas.identity("prepare_model"), "corpus": atlas.identity("tokenize")}


@stage("cards", "figures/shown.py")
def model_card(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    settings = {
        "base": atlas.config["base_model"]["name"],
        "text": atlas.config["corpus"]["name"],
        "author": atlas.config["release"]["author"],
    }
    return settings, {**sources(atlas), "metrics": atlas.identity("evaluate_sae", recipe=recipe, layer=layer)}


@stage("cards", "figures/shown.py")
def release(atlas, recipe: str) -> tuple[dict, dict]:
    """What its page says; `config` is what makes this recipe again, without what only bounds disk or memory."""
    activations, base, text = atlas.config["activations"], atlas.config["base_model"], atlas.config["corpus"]
    keys = ("site", "layers", "dtype", "outlier_norm", "shard_rows", "chunk_rows", "seed")
    settings = {
        "base": base["name"],
        "text": text["name"],
        "licence": atlas.config["release"]["licence"],
        "author": atlas.config["release"]["author"],
        "config": {
            "base_model": base,
            "corpus": text,
            "activations": {key: activations[key] for key in keys},
            "training": atlas.config["training"],
            "recipes": {recipe: atlas.config["recipes"][recipe]},
            "evaluation": atlas.config["evaluation"],
        },
    }
    return settings, {**sources(atlas), **evaluations(atlas, recipe)}
