"""Figure 8: what a student of a smaller width is predicted to lose, layer by layer, and what trained students lost."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sae_atlas.figures.style import (
    FAINT,
    GREY,
    INK,
    headline,
    layer_bar,
    layer_colours,
    page,
    save,
    short_number,
    style,
    value_axis,
)
from sae_atlas.io.tables import read_table

LEAST = 1e-6  # share of the importance below which nothing is drawn
DASHES = {"zipf": "-", "uniform": (0, (2, 1.5))}
NAMES = {"zipf": "Zipf", "uniform": "uniform"}


def plot_loss_floor_predictions(
    floors: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
    students: str | Path | None = None,
    fit: str | Path | None = None,
) -> None:
    """Draw the tables `floors` (floors.predict), `students` (floors.distill) and `fit` (floors.fit) of one recipe.

    students and fit may be None: then nothing was measured. title: base model and site. Raises AtlasError for an unknown
    colour map.
    """
    table = read_table(floors)
    measured = read_table(students) if students else None
    with style():
        figure = page(14.5 if students else 10.5, 5.8)
        panels = figure.subplots(1, 3 if students else 2)
        colours = layer_colours(colour_map, sorted(table["layer"].unique()))
        predictions = table[table["floor"] > LEAST * table["total"]]
        _published(panels[0], predictions, table, colours)
        _corrected(panels[1], predictions, table, colours)
        for axes in panels[:2]:
            _shares_axis(axes, drawn(predictions))
            _widths_axis(axes, table["width"])
        if len(colours) > 1:
            layer_bar(figure, list(panels[:2]), colours)
        if measured is not None:
            _widths_axis(panels[2], measured["width"])
            _measured(panels[2], measured, read_table(fit), table)
        name = f"Distillation floors: {title}, recipe {recipe}"
        tokens, blocks = int(table["held_out_tokens"].max()), int(table["blocks"].max())
        bands = (
            f"bands: 95% interval over {blocks} blocks of held-out contexts"
            if blocks > 1
            else "no interval: one context"
        )
        below = (
            "predicted: importance of the latents that a student of the width has no room for, as a share of the total\n"
            f"missing points are below {LEAST:g}; "
            f"{bands} ({tokens:,} tokens); final snapshots"
        )
        headline(figure, name, below)
        save(figure, png, svg, name)


def drawn(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows of floors.predict that have a line: the published formula, and the correction that the layer is nearer to."""
    formula = predictions["formula"]
    return predictions[(formula == "published") | (formula == predictions["nearer"])]


def _published(axes: Axes, predictions: pd.DataFrame, table: pd.DataFrame, colours: dict) -> None:
    """The published formula, and d* as a mark at the foot of every layer's line."""
    _lines(axes, predictions[predictions["formula"] == "published"], colours, "-")
    widths = table.groupby("layer")["d_star"].first()
    for layer, width in widths.items():
        axes.plot(width, 0.018, "^", color=colours[layer], markersize=6, transform=axes.get_xaxis_transform(), zorder=5)
    axes.plot(
        [], [], "^", color=GREY, markersize=6, linestyle="none", label="d*: width that would hold all alive latents"
    )
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.03), frameon=False, fontsize=8.5)
    axes.set_title("As published: floor(width x g) latents kept")


def _corrected(axes: Axes, predictions: pd.DataFrame, table: pd.DataFrame, colours: dict) -> None:
    """The correction for the shape that each layer's spectrum is nearer to."""
    layers = table.groupby("layer")["nearer"].first()
    for formula, dashes in DASHES.items():
        chosen = (predictions["formula"] == formula) & (predictions["nearer"] == formula)
        _lines(axes, predictions[chosen], colours, dashes)
        if count := int((layers == formula).sum()):
            label = f"nearer to {NAMES[formula]}: {count} of {len(layers)} layers"
            axes.plot([], [], color=GREY, linestyle=dashes, label=label)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.03), frameon=False, fontsize=8.5)
    axes.set_title("Corrected: fewer latents kept (audit of toy models)")


def _lines(axes: Axes, rows: pd.DataFrame, colours: dict, dashes) -> None:
    for layer, each in rows.sort_values("width").groupby("layer"):
        options = {"color": colours[layer], "linewidth": 1.2, "linestyle": dashes, "marker": "o", "markersize": 2.8}
        axes.plot(each["width"], each["floor"] / each["total"], **options)
        if each["low"].notna().all():
            low, high = each["low"] / each["total"], each["high"] / each["total"]
            axes.fill_between(each["width"], low.clip(lower=LEAST), high, color=colours[layer], alpha=0.12, linewidth=0)


def _measured(axes: Axes, students: pd.DataFrame, fit: pd.DataFrame, table: pd.DataFrame) -> None:
    """Floors of the students, the affine fit that is the median of all layers and formulas, and the uninformed curve."""
    floors = students.drop_duplicates(["width", "seed"])
    axes.plot(floors["width"], floors["floor"], "o", color=INK, markersize=4.5, label="students, one per seed")
    curve = fit[fit["model"] == "power"].iloc[0]
    if np.isfinite(curve["error"]):
        widths = np.geomspace(floors["width"].min(), floors["width"].max(), 100)
        label = f"uninformed a x width^b: {curve['error']:.2g}"
        axes.plot(widths, curve["scale"] * widths ** curve["other"], color=GREY, linewidth=1.2, label=label)
    affine = fit[(fit["model"] == "affine") & fit["error"].notna()].sort_values("error")
    if len(affine):  # the best of so many would be a choice made with hindsight
        median = affine.iloc[len(affine) // 2]
        rows = table[(table["layer"] == median["layer"]) & (table["formula"] == median["formula"])].sort_values("width")
        rows = rows[rows["width"].between(floors["width"].min(), floors["width"].max())]
        label = f"affine in the prediction, median of {len(affine)} fits: {median['error']:.2g}"
        drawn = median["scale"] * rows["floor"] + median["other"]
        axes.plot(rows["width"], drawn, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label=label)
    value_axis(axes, floors["floor"].to_numpy())
    low, high = floors["floor"].min(), floors["floor"].max()
    if axes.get_yscale() == "linear":
        axes.set_ylim(low - 0.1 * (high - low), high + 0.35 * (high - low))  # room for the legend
    axes.set_ylabel("held-out T² KL from the base model, nats per token")
    axes.legend(loc="upper right", fontsize=8.5, title="curves: nats of error on a width left out", edgecolor=FAINT)
    falling = 100 * floors["falling"].mean()
    axes.set_title(f"Measured: {len(floors)} students, still falling by {falling:.1f}%")


def _shares_axis(axes: Axes, predictions: pd.DataFrame) -> None:
    """Both panels alike, so that they can be compared."""
    shares = (predictions["floor"] / predictions["total"]).to_numpy()
    least = max(shares.min(initial=1.0) / 3, LEAST)
    axes.set(yscale="log", ylim=(least, min(1.2, 2 * shares.max(initial=0.5))))
    axes.set_ylabel("floor, share of the layer's importance (log scale)")


def _widths_axis(axes: Axes, widths: pd.Series) -> None:
    all_widths = sorted(widths.unique())
    axes.set(xscale="log", xlim=(all_widths[0] / 1.2, all_widths[-1] * 1.2))
    labelled = []
    for width in all_widths:
        if not labelled or width > 1.45 * labelled[-1]:
            labelled.append(width)
    axes.xaxis.set_major_locator(FixedLocator(labelled))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    axes.set_xlabel("width of the student, dimensions (log scale)")
