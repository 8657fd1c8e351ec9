"""A figure depends on what it shows and how."""

from sae_atlas.plan.stages.declare import stage
from sae_atlas.plan.stages.evaluation import evaluations


def figures(atlas, recipe: str) -> list[str]:
    """Names of a recipe's figures: a number, then what its stage is called after `plot_`."""
    names = ["metrics_heatmap", "snapshot_convergence", "feature_density", "importance_spectrum", "pareto"]
    # Directions inside a module mean something else in every layer.
    flows = len(atlas.layers) > 1 and "{layer}" not in atlas.config["activations"]["site"]
    numbered = dict(enumerate(names, 2))
    if recipe in atlas.trained:  # what others trained has no curves
        numbered[1] = "training_curves"
    if flows:
        numbered[7] = "layer_flow"
    if "floors" in atlas.config:
        numbered[8] = "loss_floor_predictions"
    return [f"{number}_{name}" for number, name in sorted(numbered.items())]


def look(atlas, recipe: str) -> dict:
    """What every figure of a recipe says and wears."""
    title = f"{atlas.config['base_model']['name']}, {atlas.config['activations']['site']}"
    return {"title": title, "recipe": recipe, "colour_map": atlas.config["figures"]["colour_map"]}


@stage("figures/training_curves.py", "figures/style.py", "tables.py")
def plot_training_curves(atlas, recipe: str) -> tuple[dict, dict]:
    target = atlas.config["recipes"][recipe].get("l1", {}).get("target_l0")
    trained = {
        f"layer{layer:02d}_{snapshot}": atlas.identity("train_sae", recipe=recipe, layer=layer, snapshot=snapshot)
        for layer in atlas.layers
        for snapshot in atlas.snapshots
    }
    return {**look(atlas, recipe), "target_l0": target}, trained


@stage("figures/metrics_heatmap.py", "figures/scales.py", "figures/shown.py", "figures/style.py", "tables.py")
def plot_metrics_heatmap(atlas, recipe: str) -> tuple[dict, dict]:
    return look(atlas, recipe), evaluations(atlas, recipe)


@stage("figures/snapshot_convergence.py", "figures/scales.py", "figures/style.py", "tables.py")
def plot_snapshot_convergence(atlas, recipe: str) -> tuple[dict, dict]:
    return look(atlas, recipe), evaluations(atlas, recipe)


@stage("figures/feature_density.py", "figures/style.py", "tables.py")
def plot_feature_density(atlas, recipe: str) -> tuple[dict, dict]:
    return look(atlas, recipe), evaluations(atlas, recipe)


@stage("figures/importance_spectrum.py", "figures/scales.py", "figures/style.py", "tables.py")
def plot_importance_spectrum(atlas, recipe: str) -> tuple[dict, dict]:
    return look(atlas, recipe), evaluations(atlas, recipe)


@stage("figures/pareto.py", "figures/published.py", "figures/style.py", "tables.py")
def plot_pareto(atlas, recipe: str) -> tuple[dict, dict]:
    base, site = atlas.config["base_model"].get("id"), atlas.config["activations"]["site"]
    sisters = {
        f"{sister} {layer}": identity
        for sister in atlas.recipes
        for layer, identity in evaluations(atlas, sister).items()
    }
    return {**look(atlas, recipe), "base_model": base, "site": site}, sisters


@stage("figures/layer_flow.py", "figures/style.py", "tables.py")
def plot_layer_flow(atlas, recipe: str) -> tuple[dict, dict]:
    return look(atlas, recipe), {"flow": atlas.identity("match_layers", recipe=recipe)}


@stage("figures/loss_floor_predictions.py", "figures/style.py", "tables.py")
def plot_loss_floor_predictions(atlas, recipe: str) -> tuple[dict, dict]:
    tables = {"floors": atlas.identity("floors", recipe=recipe)}
    if "students" in atlas.config["floors"]:
        tables |= {"students": atlas.identity("distill"), "fit": atlas.identity("fit_floors", recipe=recipe)}
    return look(atlas, recipe), tables
