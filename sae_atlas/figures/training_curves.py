"""Figure 1: how every SAE of a recipe trained: loss, L0, alive latents, lambda over the tokens, all layers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sae_atlas.figures.style import (
    GREY,
    INK,
    headline,
    layer_bar,
    layer_colours,
    page,
    save,
    short_number,
    spread,
    style,
    tokens_axis,
    value_axis,
)
from sae_atlas.io.sizes import format_size
from sae_atlas.io.tables import read_table

# column of the curve -> (title, what the y axis shows)
PANELS = {
    "loss": ("Loss", "per token, in units of the variance"),
    "reconstruction": ("Squared error", "per token, in units of the variance"),
    "l0": ("L0", "active latents per token"),
    "alive": ("Alive latents", "latents that fired within {interval} tokens"),
    "lambda": ("Lambda", "canonical penalty coefficient"),
    "gradient_norm": ("Gradient norm", "before clipping"),
}


def plot_training_curves(
    curves: Sequence[str | Path],
    layers: Sequence[int],
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    target_l0: float | None,
    colour_map: str,
) -> None:
    """Draw the curves (training/curve.py) of `layers`: for each its Parquet files, one per window, in order.

    title: base model and site. target_l0: what the controller of lambda steers to, or None. Raises AtlasError for an unknown
    colour map or a damaged curve.
    """
    count = len(curves) // len(layers)
    parts = list(map(read_table, curves))
    windows = {layer: parts[at * count : (at + 1) * count] for at, layer in enumerate(layers)}
    whole = {layer: pd.concat(parts, ignore_index=True) for layer, parts in windows.items()}
    snapshots = [int(part["tokens"].iloc[-1]) for part in next(iter(windows.values()))]
    interval = float(np.median(np.diff(next(iter(whole.values()))["tokens"]))) if len(whole) else 0.0
    colours = layer_colours(colour_map, list(whole))
    panels = _panels(list(whole.values()))
    columns = 3 if len(panels) > 4 else 2
    smoothing = _smoothing(min(map(len, whole.values())))
    with style():
        figure = page(13.5, 7.6)
        grid = figure.subplots(-(-len(panels) // columns), columns, sharex=True, squeeze=False)
        for axes, column in zip(grid.flat, panels, strict=False):
            target = target_l0 if column == "l0" else None
            _draw(axes, column, whole, colours, smoothing, target)
            axes.set_ylabel(_label(column, axes, interval))
            _mark_snapshots(axes, snapshots, labels=axes in grid[0])
            tokens_axis(axes, snapshots[-1])
        for axes in grid[:-1].flat:
            axes.set_xlabel("")
        if len(colours) > 1:
            layer_bar(figure, grid, colours)
        name = f"Training curves: {title}, recipe {recipe}"
        below = (
            f"{len(whole)} layer{'s' * (len(whole) > 1)}, {short_number(snapshots[-1])} training tokens each, "
            "snapshots at the dotted lines\nmeasured on the training stream, not on held-out text"
        )
        if smoothing > 1:
            below += f"; lines are running medians over {short_number(interval * smoothing)} tokens"
        headline(figure, name, below)
        save(figure, png, svg, name)


def _panels(layers: list[pd.DataFrame]) -> list[str]:
    """Columns worth a panel: the squared error where it is not the loss, lambda where it moves; an even number."""
    rows, panels = pd.concat(layers), ["loss"]
    if not np.allclose(rows["loss"], rows["reconstruction"], rtol=0.01):
        panels.append("reconstruction")
    panels += ["l0", "alive"]
    if any(np.ptp(layer["lambda"]) > 0.01 * layer["lambda"].max() for layer in layers):
        panels.append("lambda")
    return panels if len(panels) % 2 == 0 else [*panels, "gradient_norm"]


def _smoothing(rows: int) -> int:
    """Rows (odd) of the running median: at most about 60 steady points per line, so that layers can be told apart."""
    return 2 * (rows // 60) + 1


def _draw(
    axes: Axes,
    column: str,
    whole: dict[int, pd.DataFrame],
    colours: dict[int, tuple],
    smoothing: int,
    target: float | None,
) -> None:
    for layer, rows in whole.items():
        smooth = rows[column].rolling(smoothing, center=True, min_periods=1).median()
        if smoothing > 1:
            raw = {"linewidth": 0.4, "alpha": 0.25, "zorder": 2, "rasterized": True}  # an SVG of a size to look at
            axes.plot(rows["tokens"], rows[column], color=colours[layer], **raw)
        axes.plot(rows["tokens"], smooth, color=colours[layer], linewidth=1.1, zorder=2.5)
    values = np.concatenate([rows[column].to_numpy(dtype=float) for rows in whole.values()])
    drawn = values[values > 0] if column == "lambda" else values
    value_axis(axes, drawn if target is None else np.append(drawn, target))
    if target is not None:
        line = axes.axhline(target, color=INK, linewidth=1.0, linestyle=(0, (5, 3)), zorder=3)
        axes.legend([line], [f"target {target:g}"], loc="upper right", frameon=False, fontsize=8)
    axes.set_title(PANELS[column][0], pad=14)


def _label(column: str, axes: Axes, interval: float) -> str:
    log = " (log scale)" if axes.get_yscale() == "log" else ""
    return PANELS[column][1].format(interval=short_number(interval)) + log


def _mark_snapshots(axes: Axes, snapshots: list[int], labels: bool) -> None:
    for tokens in snapshots:
        axes.axvline(tokens, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    if not labels:
        return
    from_last = [snapshots[::-1][index] for index in spread(len(snapshots), 8)]
    for tokens in from_last:
        text = "final" if tokens == snapshots[-1] else format_size(tokens)
        at_edge = "right" if tokens == snapshots[-1] else "center"
        axes.text(
            tokens, 1.01, text, transform=axes.get_xaxis_transform(), ha=at_edge, va="bottom", fontsize=7, color=GREY
        )
