"""What is published depends on the measurement and on the names of base model and text."""

from sae_atlas.config import without_model
from sae_atlas.config.published import as_written
from sae_atlas.stages.declare import stage
from sae_atlas.stages.evaluation import evaluations, further_of_layer
from sae_atlas.stages.figures import figures


def sources(atlas) -> dict:
    return {"base_model": atlas.identity("prepare_model"), "corpus": atlas.identity("tokenize")}


PAIR = (
    "publish/formats/published.py",
    "publish/formats/saelens_pair.py",
    "publish/formats/metadata.py",
    "publish/formats/hooks.py",
    "saes/archive.py",
)


@stage("publish/cards", "metrics/labels.py", *PAIR, runs="publish.formats.published:publish_sae")
def model_card(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    settings = {
        "base": atlas.config["base_model"]["name"],
        "text": atlas.config["corpus"]["name"],
        "author": atlas.config["release"]["author"],
    }
    measured = {"metrics": atlas.identity("evaluate_sae", recipe=recipe, layer=layer)}
    return settings, {**sources(atlas), **measured, **further_of_layer(atlas, recipe, layer)}


@stage("publish/cards", "metrics/labels.py", runs="publish.cards.release:write_release", version=2)
def release(atlas, recipe: str) -> tuple[dict, dict]:
    settings = {
        "base": atlas.config["base_model"]["name"],
        "text": atlas.config["corpus"]["name"],
        "licence": atlas.config["release"]["licence"],
        "author": atlas.config["release"]["author"],
        "config": what_makes(atlas, [recipe]),
        "sisters": {
            atlas.release_name(name): atlas.config["recipes"][name] for name in atlas.trained if name != recipe
        },
    }
    drawn = {name: atlas.identity(f"plot_{name.partition('_')[2]}", recipe=recipe) for name in figures(atlas, recipe)}
    return settings, {**sources(atlas), **evaluations(atlas, recipe), **drawn}


@stage("publish/index.py", runs="publish.index:write_index")
def index(atlas) -> tuple[dict, dict]:
    """Every card; what else lies in models/ is read as it is."""
    cards = {
        atlas.sae_name(recipe, layer): atlas.identity("model_card", recipe=recipe, layer=layer)
        for recipe in atlas.recipes
        for layer in atlas.layers
    }
    return {}, cards


# What its numbers are drawn from: the names of figures and cards, and the sums of the benchmark files.
PAGE = ("pages", "publish/cards", "plan/costs.py", "plan/jobs.py", "metrics/collect.py")
LOOK = ("figures/metrics_heatmap.py", "figures/scales.py", "metrics/labels.py", "figures/style.py")


@stage(*PAGE, *LOOK, runs="pages.page:write_page")
def page(atlas) -> tuple[dict, dict]:
    """The page of the whole atlas, and the cards as pages beside it."""
    settings = {"config": what_makes(atlas, atlas.recipes), "colour_map": atlas.config["figures"]["colour_map"]}
    settings["explored"] = atlas.feature_layers
    cards = {
        atlas.sae_name(recipe, layer): atlas.identity("model_card", recipe=recipe, layer=layer)
        for recipe in atlas.recipes
        for layer in atlas.layers
    }
    # Of contexts from held-out text there is no pass, whose time the page would tell.
    text = (
        {"held_out": atlas.identity("save_held_out")}
        if atlas.config.get("features", {}).get("split") == "held_out"
        else {}
    )
    return settings, {**sources(atlas), **cards, **text}


def what_makes(atlas, recipes: list[str]) -> dict:
    """The config that makes these recipes again, and those at which they begin, without what only bounds disk or says how
    things look.
    """
    recipes = [*recipes]
    for recipe in recipes:
        source = atlas.config["recipes"][recipe].get("start_from", {}).get("recipe", recipe)
        recipes += [source] if source not in recipes else []
    base_model, activations = atlas.config["base_model"], atlas.config["activations"]
    if "base" in base_model:  # computed in the precision of the model that is made of it
        base = {key: value for key, value in base_model["base"].items() if key != "dtype"}
        base_model = base_model | {"base": base}
    bounds = ("layers_per_pass", "max_live_stores")
    written = {
        "base_model": base_model,
        "corpus": atlas.config["corpus"],
        "activations": {key: value for key, value in activations.items() if key not in bounds},
        "training": atlas.config["training"],
        "recipes": {recipe: as_written(atlas.config["recipes"][recipe]) for recipe in recipes},
        **{key: atlas.config[key] for key in ("evaluation", "floors") if key in atlas.config},
    }
    if atlas.of_rows:
        return {name: without_model.as_written(name, section) for name, section in written.items()}
    return written
