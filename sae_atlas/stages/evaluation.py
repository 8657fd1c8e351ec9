"""The measurement depends on the held-out passes and on every snapshot of the layer."""

from sae_atlas.stages.activations import target_of
from sae_atlas.stages.declare import STAGES, stage
from sae_atlas.stages.sisters import other_seeds

ROWS_AT_ONCE = 1024  # of saved activations


@stage(
    "metrics/held_out.py",
    "metrics/held_out_rows.py",
    "metrics/loss_recovered.py",
    "own_arrays",
    "io/arrays.py",
    "sites",
    runs="metrics.held_out:save_held_out",
    on_rows="metrics.held_out_rows:save_held_out_rows",
)
def save_held_out(atlas) -> tuple[dict, dict]:
    evaluation = atlas.config["evaluation"]
    read = {"base_model": atlas.identity("prepare_model"), "corpus": atlas.identity("tokenize")}
    if atlas.of_rows:
        return {"tokens": evaluation["tokens"]}, read | atlas.files(atlas.layers)
    settings = {
        "site": atlas.config["activations"]["site"],
        "tokens": evaluation["tokens"],
        "patched_tokens": evaluation["patched_tokens"],
        "contexts_per_batch": evaluation["contexts_per_batch"],
        "model_dtype": atlas.config["base_model"]["dtype"],
        **target_of(atlas),
    }
    return settings, read


@stage(
    "metrics",
    "activations/outliers.py",
    "saes",
    "kernels/pursuit.py",
    "io/arrays.py",
    "sites",
    runs="metrics.evaluate:evaluate",
)
def evaluate_sae(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    evaluation = atlas.config["evaluation"]
    settings = {
        "recipe": recipe,
        "layer": layer,
        "contexts_per_batch": contexts_of_rows(atlas) if atlas.of_rows else evaluation["contexts_per_batch"],
        "outlier_norm": evaluation["outlier_norm"],
    }
    return settings, snapshots_and_held_out(atlas, recipe, layer)


def snapshots_and_held_out(atlas, recipe: str, layer: int) -> dict:
    """Identities of a layer's checkpoints, and of what all of them are measured on."""
    passes = {"base_model": atlas.identity("prepare_model"), "held_out": atlas.passed("save_held_out", [layer])}
    return passes | snapshot_checkpoints(atlas, recipe, layer)


def snapshot_checkpoints(atlas, recipe: str, layer: int) -> dict:
    """Identities of a layer's checkpoints, by what their snapshots are called in tables."""
    return {
        atlas.published(snapshot): atlas.checkpoint(recipe, layer, snapshot) for snapshot in atlas.snapshots_of(recipe)
    }


@stage(
    "metrics/truth.py",
    "metrics/active.py",
    "metrics/bootstrap.py",
    "metrics/directions.py",
    "synthetic/truth.py",
    "saes",
    "kernels/pursuit.py",
    runs="metrics.truth:known_truth",
    version=2,
    measures=lambda atlas: atlas.has_truth,
)
def known_truth(atlas, recipe: str, layer: int) -> tuple[dict, dict]:
    """Of synthetic rows: the SAE against the true features."""
    settings = {"recipe": recipe, "layer": layer, "contexts_per_batch": contexts_of_rows(atlas)}
    return settings, snapshots_and_held_out(atlas, recipe, layer)


def contexts_of_rows(atlas) -> int:
    """Contexts that are measured at once where no model reads them."""
    return max(1, ROWS_AT_ONCE // atlas.config["corpus"]["context"])


@stage(
    "metrics/replaced_layers.py",
    "metrics/losses.py",
    "saes/sae.py",
    "sites",
    runs="metrics.replaced_layers:replace_layers",
)
def replace_layers(atlas, recipe: str) -> tuple[dict, dict]:
    """Transcoders of all layers at once."""
    settings = {"recipe": recipe, "contexts_per_batch": atlas.config["evaluation"]["contexts_per_batch"]}
    passes = {"base_model": atlas.identity("prepare_model"), "held_out": atlas.identity("save_held_out")}
    return settings, {**passes, **final_checkpoints(atlas, recipe)}


@stage(
    "metrics/seed_consistency.py",
    "metrics/directions.py",
    "io/tables.py",
    "saes/checkpoint.py",
    runs="metrics.seed_consistency:match_seeds",
)
def match_seeds(atlas, recipe: str) -> tuple[dict, dict]:
    names = other_seeds(atlas, recipe)
    of_others = {
        f"{name} {file}": identity for name in names for file, identity in final_checkpoints(atlas, name).items()
    }
    return {"names": names}, {**evaluations(atlas, recipe), **final_checkpoints(atlas, recipe), **of_others}


def final_checkpoints(atlas, recipe: str) -> dict:
    """Identities of a recipe's final checkpoints, by the names of their files."""
    return {f"sae_layer{layer:02d}": atlas.checkpoint(recipe, layer) for layer in atlas.layers}


def evaluations(atlas, recipe: str) -> dict:
    """Identities of a recipe's evaluations by layer, for the stages that read what is said of its latents."""
    return {f"layer{layer:02d}": atlas.identity("evaluate_sae", recipe=recipe, layer=layer) for layer in atlas.layers}


def further_stages(atlas) -> list[str]:
    """Stages that measure the SAEs of every recipe and layer beside evaluate_sae, as the config asks.

    Each writes `results/metrics/{recipe}/layer{layer}_{stage}.parquet` with metrics.evaluate.METRIC_COLUMNS, whose rows stand
    below those of evaluate_sae in the tables of the recipe, on its cards and in its figures.
    """
    return [name for name, declared in STAGES.items() if declared.measures and declared.measures(atlas)]


def further_of_layer(atlas, recipe: str, layer: int) -> dict:
    """Identities of what these stages measure of an SAE, by stage; empty where the config asks for none."""
    return {name: atlas.identity(name, recipe=recipe, layer=layer) for name in further_stages(atlas)}


def measurements(atlas, recipe: str) -> dict:
    """Identities of all tables of metrics of a recipe, layer by layer."""
    every = {}
    for layer in atlas.layers:
        of_layer = f"layer{layer:02d}"
        every[of_layer] = atlas.identity("evaluate_sae", recipe=recipe, layer=layer)
        further = further_of_layer(atlas, recipe, layer)
        every |= {f"{of_layer} {name}": identity for name, identity in further.items()}
    return every


@stage("metrics/collect.py", runs="metrics.collect:collect")
def collect_metrics(atlas, recipe: str) -> tuple[dict, dict]:
    return {}, measurements(atlas, recipe)


@stage("metrics/collect.py", runs="metrics.collect:collect")
def collect_recipes(atlas) -> tuple[dict, dict]:
    every = [measurements(atlas, recipe) for recipe in atlas.recipes]
    named = zip(atlas.recipes, every, strict=True)
    return {}, {f"{recipe} {table}": identity for recipe, each in named for table, identity in each.items()}


@stage(
    "metrics/flow.py", "metrics/directions.py", "io/tables.py", "saes/checkpoint.py", runs="metrics.flow:match_layers"
)
def match_layers(atlas, recipe: str) -> tuple[dict, dict]:
    return {"recipe": recipe}, {**evaluations(atlas, recipe), **final_checkpoints(atlas, recipe)}
