"""Every figure, drawn from made-up tables: draw(folder, layers, snapshots) -> (png, svg)."""

from pathlib import Path

from tables import (
    write_curves,
    write_floors,
    write_flow,
    write_latents,
    write_metrics,
    write_replaced,
    write_seeds,
    write_students,
)

from sae_atlas.figures.feature_density import plot_feature_density
from sae_atlas.figures.importance_spectrum import plot_importance_spectrum
from sae_atlas.figures.layer_flow import plot_layer_flow
from sae_atlas.figures.loss_floor_predictions import plot_loss_floor_predictions
from sae_atlas.figures.metrics_heatmap import plot_metrics_heatmap
from sae_atlas.figures.pareto import plot_pareto
from sae_atlas.figures.replaced_layers import plot_replaced_layers
from sae_atlas.figures.seed_consistency import plot_seed_consistency
from sae_atlas.figures.snapshot_convergence import plot_snapshot_convergence
from sae_atlas.figures.training_curves import plot_training_curves
from sae_atlas.io.provenance import make_record, recording

RECORD = make_record("plot", {"recipe": "topk"}, "0", {"metrics": "1"})
LOOK = {"title": "base, resid_post", "recipe": "topk", "colour_map": "viridis"}


def outputs(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"{number}.png", folder / f"{number}.svg"


def draw(plot, folder: Path, number: int, tables: dict, **look) -> tuple[Path, Path]:
    png, svg = outputs(folder, number)
    with recording(RECORD):
        plot(**tables, png=png, svg=svg, **(LOOK | look))
    return png, svg


def draw_curves(folder, layers=3, snapshots=(1000, 2000), adaptive=False, **changes):
    curves = write_curves(folder, layers, list(snapshots), adaptive, rows=10)
    tables = {"curves": curves, "layers": range(layers)}
    return draw(plot_training_curves, folder, 1, tables, **({"target_l0": None} | changes))


def draw_heatmap(folder, layers=3, snapshots=(1000, 2000), **changes):
    table = write_metrics(folder / "metrics.parquet", "topk", layers, list(snapshots))
    return draw(plot_metrics_heatmap, folder, 2, {"metrics": table}, **changes)


def draw_convergence(folder, layers=3, snapshots=(1000, 2000), **changes):
    table = write_metrics(folder / "metrics.parquet", "topk", layers, list(snapshots))
    return draw(plot_snapshot_convergence, folder, 3, {"metrics": table}, **changes)


def draw_density(folder, layers=3, snapshots=(), **changes):
    tables = {"latents": write_latents(folder, layers), "layers": range(layers)}
    return draw(plot_feature_density, folder, 4, tables, **changes)


def draw_spectrum(folder, layers=3, snapshots=(1000, 2000), **changes):
    tables = {"latents": write_latents(folder, layers), "layers": range(layers)}
    tables["metrics"] = write_metrics(folder / "metrics.parquet", "topk", layers, list(snapshots))
    return draw(plot_importance_spectrum, folder, 5, tables, **changes)


def draw_pareto(folder, layers=3, snapshots=(1000, 2000), recipes=("topk", "l1"), **changes):
    table = write_metrics(folder / "metrics.parquet", list(recipes), layers, list(snapshots))
    return draw(plot_pareto, folder, 6, {"sisters": table}, **({"base_model": None, "site": "resid_post"} | changes))


def draw_flow(folder, layers=3, snapshots=(), **changes):
    flow = write_flow(folder / "flow.parquet", max(layers, 2))
    return draw(plot_layer_flow, folder, 7, {"flow": flow}, **changes)


def draw_floors(folder, layers=3, snapshots=(), students=True, **changes):
    tables = {"floors": write_floors(folder / "floors.parquet", layers)}
    if students:
        tables["students"], tables["fit"] = write_students(folder, tables["floors"])
    return draw(plot_loss_floor_predictions, folder, 8, tables, **changes)


def draw_replaced(folder, layers=3, snapshots=(), **changes):
    table = write_replaced(folder / "replaced_layers.parquet", layers)
    return draw(plot_replaced_layers, folder, 9, {"replaced": table}, **changes)


def draw_seeds(folder, layers=3, snapshots=(), **changes):
    table = write_seeds(folder / "seeds.parquet", layers)
    return draw(plot_seed_consistency, folder, 10, {"seeds": table}, **changes)


DRAWS = [
    draw_curves,
    draw_heatmap,
    draw_convergence,
    draw_density,
    draw_spectrum,
    draw_pareto,
    draw_flow,
    draw_floors,
    draw_replaced,
    draw_seeds,
]
