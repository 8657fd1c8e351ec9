"""Figures: a line for each, with the tables that it reads; what it depends on follows from these."""

from collections.abc import Callable
from typing import NamedTuple

from sae_atlas.stages.declare import stage
from sae_atlas.stages.evaluation import evaluations, measurements
from sae_atlas.stages.sisters import curves, other_seeds


def _curves(atlas, recipe: str) -> dict:
    return {
        f"layer{layer:02d}_{snapshot}": atlas.checkpoint(recipe, layer, snapshot)
        for layer in atlas.layers
        for snapshot in atlas.chain(recipe)
    }


def _sisters(atlas, recipe: str) -> dict:
    return {
        f"{sister} {table}": each for sister in atlas.recipes for table, each in measurements(atlas, sister).items()
    }


def _students(atlas, recipe: str) -> dict:
    if "students" not in atlas.config["floors"]:
        return {}
    return {"students": atlas.identity("distill"), "fit": atlas.identity("fit_floors", recipe=recipe)}


# Parameter of a figure's function -> identities in the tables that it is (their files: workflow/rules/figures.smk).
TABLES: dict[str, Callable[..., dict]] = {
    "curves": _curves,
    "metrics": measurements,
    "latents": evaluations,
    "sisters": _sisters,
    "flow": lambda atlas, recipe: {"flow": atlas.identity("match_layers", recipe=recipe)},
    "seeds": lambda atlas, recipe: {"seeds": atlas.identity("match_seeds", recipe=recipe)},
    "replaced": lambda atlas, recipe: {"replaced": atlas.identity("replace_layers", recipe=recipe)},
    "floors": lambda atlas, recipe: {"floors": atlas.identity("floors", recipe=recipe)},
    "students": _students,
    "fit": _students,
}
OF_LAYERS = ("curves", "latents")  # tables of which there is one for every layer, or more


def _target_l0(atlas, recipe: str) -> dict:
    return {"target_l0": atlas.config["recipes"][recipe].get("l1", {}).get("target_l0")}


def _base_site_and_curves(atlas, recipe: str) -> dict:
    families = curves(atlas)
    about = {"base_model": atlas.config["base_model"].get("id"), "site": atlas.site_words}
    return about | ({"curves": families} if families else {})


class Figure(NamedTuple):
    number: int
    tables: tuple[str, ...]
    category: str  # of the report
    label: str
    settings: Callable[..., dict] = lambda atlas, recipe: {}  # beside those that every figure has
    is_drawn: Callable[..., bool] = lambda atlas, recipe: True


# Name of the figure's module, of its caption in workflow/report and, after `plot_`, of its function, stage and rule.
FIGURES = {
    "training_curves": Figure(
        1, ("curves",), "4 How did it get there", "training curves", _target_l0,
        lambda atlas, recipe: recipe in atlas.trained,  # what others trained has no curves
    ),
    "metrics_heatmap": Figure(2, ("metrics",), "2 Is it good", "metrics heatmap"),
    "snapshot_convergence": Figure(3, ("metrics",), "4 How did it get there", "snapshot convergence"),
    "feature_density": Figure(4, ("latents",), "3 Where is it bad", "feature density"),
    "importance_spectrum": Figure(5, ("latents", "metrics"), "3 Where is it bad", "importance spectrum"),
    "pareto": Figure(6, ("sisters",), "2 Is it good", "sparsity against loss", _base_site_and_curves),
    "layer_flow": Figure(
        7, ("flow",), "4 How did it get there", "flow through the layers",
        # Directions inside a module mean something else in every layer.
        is_drawn=lambda atlas, recipe: len(atlas.layers) > 1 and "{layer}" not in atlas.decoder_site,
    ),
    "loss_floor_predictions": Figure(
        8, ("floors", "students", "fit"), "3 Where is it bad", "distillation floors",
        is_drawn=lambda atlas, recipe: "floors" in atlas.config,
    ),
    "replaced_layers": Figure(
        9, ("replaced",), "2 Is it good", "many layers replaced",
        is_drawn=lambda atlas, recipe: "target" in atlas.config["activations"],
    ),
    "seed_consistency": Figure(
        10, ("seeds",), "3 Where is it bad", "latents that other seeds find", is_drawn=other_seeds,
    ),
    "known_truth": Figure(
        11, ("sisters",), "2 Is it good", "known truth", is_drawn=lambda atlas, recipe: atlas.has_truth,
    ),
}  # fmt: skip


def figures(atlas, recipe: str) -> list[str]:
    """Names of a recipe's figures as their files have them: a number, then the name."""
    return [f"{figure.number}_{name}" for name, figure in FIGURES.items() if figure.is_drawn(atlas, recipe)]


def _declare(name: str, figure: Figure) -> None:
    shared = ("figures/style.py", "figures/scales.py", "metrics/labels.py", "io/tables.py")

    def depends_on(atlas, recipe: str) -> tuple[dict, dict]:
        title = f"{atlas.config['base_model']['name']}, {atlas.site_words}"
        shared_settings = {"title": title, "recipe": recipe, "colour_map": atlas.config["figures"]["colour_map"]}
        read = [TABLES[table](atlas, recipe) for table in figure.tables]
        return shared_settings | figure.settings(atlas, recipe), {
            key: value for each in read for key, value in each.items()
        }

    depends_on.__name__ = f"plot_{name}"
    stage(f"figures/{name}.py", *shared, runs=f"figures.{name}:plot_{name}", version=4)(depends_on)


for _name, _figure in FIGURES.items():
    _declare(_name, _figure)
