"""Every figure, drawn from made-up tables: draw(folder, layers, snapshots) -> (png, svg)."""

from pathlib import Path

from tables import IDENTITY, write_curves, write_floors, write_flow, write_latents, write_metrics, write_students

from sae_atlas.figures.feature_density import plot_feature_density
from sae_atlas.figures.importance_spectrum import plot_importance_spectrum
from sae_atlas.figures.layer_flow import plot_layer_flow
from sae_atlas.figures.loss_floor_predictions import plot_loss_floor_predictions
from sae_atlas.figures.metrics_heatmap import plot_metrics_heatmap
from sae_atlas.figures.pareto import plot_pareto
from sae_atlas.figures.snapshot_convergence import plot_snapshot_convergence
from sae_atlas.figures.training_curves import plot_training_curves
from sae_atlas.provenance import make_record

RECORD = make_record("plot", {"recipe": "topk"}, "0", {"metrics": "1"})
LOOK = {"title": "base, resid_post", "recipe": "topk", "colour_map": "viridis", "record": RECORD}


def outputs(folder: Path, number: int) -> tuple[Path, Path]:
    return folder / f"{number}.png", folder / f"{number}.svg"


def by_layer(layers: int) -> dict:
    return {f"layer{layer:02d}": IDENTITY for layer in range(layers)}


def draw_curves(folder, layers=3, snapshots=(1000, 2000), adaptive=False, **changes):
    curves = write_curves(folder, layers, list(snapshots), adaptive, rows=10)
    look = LOOK | {"target_l0": None, "expects": {path.stem: IDENTITY for paths in curves.values() for path in paths}}
    plot_training_curves(curves, *outputs(folder, 1), **(look | changes))
    return outputs(folder, 1)


def draw_heatmap(folder, layers=3, snapshots=(1000, 2000), **changes):
    table = write_metrics(folder / "metrics.parquet", "topk", layers, list(snapshots))
    plot_metrics_heatmap(table, *outputs(folder, 2), **(LOOK | {"expects": [IDENTITY] * layers} | changes))
    return outputs(folder, 2)


def draw_convergence(folder, layers=3, snapshots=(1000, 2000), **changes):
    table = write_metrics(folder / "metrics.parquet", "topk", layers, list(snapshots))
    plot_snapshot_convergence(table, *outputs(folder, 3), **(LOOK | {"expects": [IDENTITY] * layers} | changes))
    return outputs(folder, 3)


def draw_density(folder, layers=3, snapshots=(), **changes):
    latents = write_latents(folder, layers)
    plot_feature_density(latents, *outputs(folder, 4), **(LOOK | {"expects": by_layer(layers)} | changes))
    return outputs(folder, 4)


def draw_spectrum(folder, layers=3, snapshots=(1000, 2000), **changes):
    latents = write_latents(folder, layers)
    table = write_metrics(folder / "metrics.parquet", "topk", layers, list(snapshots))
    plot_importance_spectrum(latents, table, *outputs(folder, 5), **(LOOK | {"expects": by_layer(layers)} | changes))
    return outputs(folder, 5)


def draw_pareto(folder, layers=3, snapshots=(1000, 2000), recipes=("topk", "l1"), **changes):
    table = write_metrics(folder / "metrics.parquet", list(recipes), layers, list(snapshots))
    look = LOOK | {"base_model": None, "site": "resid_post", "expects": [IDENTITY] * layers * len(recipes)}
    plot_pareto(table, *outputs(folder, 6), **(look | changes))
    return outputs(folder, 6)


def draw_flow(folder, layers=3, snapshots=(), **changes):
    flow = write_flow(folder / "flow.parquet", max(layers, 2))
    plot_layer_flow(flow, *outputs(folder, 7), **(LOOK | {"expects": IDENTITY} | changes))
    return outputs(folder, 7)


def draw_floors(folder, layers=3, snapshots=(), students=True, **changes):
    floors = write_floors(folder / "floors.parquet", layers)
    measured = write_students(folder, floors) if students else (None, None)
    expects = dict.fromkeys(("floors", "students", "fit"), IDENTITY)
    plot_loss_floor_predictions(floors, *measured, *outputs(folder, 8), **(LOOK | {"expects": expects} | changes))
    return outputs(folder, 8)


DRAWS = [draw_curves, draw_heatmap, draw_convergence, draw_density, draw_spectrum, draw_pareto, draw_flow, draw_floors]
