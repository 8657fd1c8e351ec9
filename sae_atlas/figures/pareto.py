"""Figure 6: what sparsity costs: L0 against CE recovered and FVU, sister runs beside each other, all layers."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sae_atlas.figures.published import Suite, suites_of
from sae_atlas.figures.style import (
    DECADE,
    GREY,
    INK,
    headline,
    layer_bar,
    layer_colours,
    page,
    save,
    short_number,
    style,
)
from sae_atlas.io.tables import read_table
from sae_atlas.metrics.labels import NO_LOSSES

MARKERS = "osD^vPX<>p"
PUBLISHED = ("x", "+", "1", "2")
HALF_DECADE = DECADE**0.5  # of L0: recipes that lie closer are compared on a linear axis


def plot_pareto(
    sisters: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
    base_model: str | None,
    site: str,
    curves: dict[str, list[list[str]]] | None = None,
) -> None:
    """Draw the table `sisters` of all recipes (metrics.collect), `recipe` in front of its sisters.

    title: base model and site. base_model: id on the hub, or None; with site and layer it decides which published points
    are drawn. curves: name -> recipes that differ in sparsity alone, the seeds of every sparsity: their medians are joined.
    Raises AtlasError for an unknown colour map.
    """
    table = read_table(sisters)
    final = table[table["snapshot"] == "final"]
    recipes = list(dict.fromkeys(final["recipe"]))
    colours = layer_colours(colour_map, sorted(final["layer"].unique()))
    curve_of = {name: curve for curve, family in (curves or {}).items() for seeds in family for name in seeds}
    named = list(dict.fromkeys(curve_of.get(name, name) for name in recipes))  # what the legend lists
    markers = dict(zip(named, cycle(MARKERS), strict=False))
    suites = [suite for suite in suites_of(base_model, site) if set(suite.points) & set(colours)]
    with style():
        drawn = [metric for metric in ("ce_recovered", "fvu") if (final["metric"] == metric).any()]
        figure = page(13.5 if len(drawn) > 1 else 8.5, 6.4)
        panels = figure.subplots(1, len(drawn), squeeze=False)[0]
        for name in sorted(recipes, key=lambda name: name == recipe):  # the last one is in front
            for axes, metric in zip(panels, drawn, strict=True):
                marker = markers[curve_of.get(name, name)]
                _draw(axes, final[final["recipe"] == name], metric, marker, colours, name == recipe, name in curve_of)
        for family in (curves or {}).values():
            for axes, metric in zip(panels, drawn, strict=True):
                _join(axes, final, metric, family)
        for suite, marker in zip(suites, cycle(PUBLISHED), strict=False):
            _reference(panels, suite, marker, colours)
        _l0_axis(panels)
        if len(drawn) > 1:
            _recovered_axis(panels[0])
        _fvu_axis(panels[-1])
        if len(colours) > 1:
            layer_bar(figure, panels, colours)
        _legend(figure, markers, curve_of.get(recipe, recipe), suites)
        name = f"Sparsity and what it costs: {title}"
        held_out = final.groupby("metric")["held_out_tokens"].max()
        sisters = (
            f"{len(recipes)} recipes, {recipe} in front" if len(recipes) > 1 else f"recipe {recipe}, no sister runs"
        )
        losses = f"CE recovered (zero ablation) on {held_out['ce_sae']:,}" if "ce_sae" in held_out else NO_LOSSES
        below = (
            f"{sisters}; final snapshots, a dot per layer, joined in their order; the large open mark is the median of "
            f"the layers{', joined over the sparsities' if curves else ''}\n"
            f"L0 and FVU on {held_out['fvu']:,} held-out tokens, {losses}"
        )
        headline(figure, name, below)
        save(figure, png, svg, f"{name}, recipe {recipe}")


def _draw(
    axes: Axes, rows: pd.DataFrame, metric: str, marker: str, colours: dict[int, tuple], front: bool, of_curve: bool
) -> None:
    """One recipe: its layers joined by a line, unless lines join the points of its curve, and their median."""
    l0, values = (rows[rows["metric"] == name].set_index("layer")["value"].sort_index() for name in ("l0", metric))
    order = 3 if front else 2
    if not of_curve:
        axes.plot(l0, values, color=GREY, linewidth=0.9 if front else 0.5, alpha=0.5, zorder=order)
    inks = [colours[layer] for layer in l0.index]
    size = 38 if front else 22
    axes.scatter(l0, values, size, inks, marker=marker, edgecolors="white", linewidths=0.5, zorder=order + 0.1)
    options = {"facecolors": "none", "edgecolors": INK, "linewidths": 1.6 if front else 0.9, "zorder": order + 0.2}
    axes.scatter([l0.median()], [values.median()], 4 * size, marker=marker, **options)


def _join(axes: Axes, final: pd.DataFrame, metric: str, family: list[list[str]]) -> None:
    """A line through the sparsities of one recipe: the median of layers and seeds of each."""
    rows = final[final["metric"].isin(["l0", metric])]
    medians = [rows[rows["recipe"].isin(seeds)].groupby("metric")["value"].median() for seeds in family]
    points = sorted((each["l0"], each[metric]) for each in medians)
    axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.4, zorder=3.5)


def _reference(panels: Sequence[Axes], suite: Suite, marker: str, colours: dict[int, tuple]) -> None:
    """The published points of the layers that are here, those of a layer joined."""
    for layer in sorted(set(suite.points) & set(colours)):
        for axes, value in zip(panels, ("ce_recovered", "fvu"), strict=True):
            points = [(p.l0, getattr(p, value)) for p in suite.points[layer] if getattr(p, value) is not None]
            if points:
                options = {
                    "color": colours[layer],
                    "markersize": 7,
                    "markeredgewidth": 1.4,
                    "linewidth": 0.8,
                    "zorder": 4,
                }
                axes.plot(*zip(*points, strict=True), ":", marker=marker, **options)


def _l0_axis(panels: Sequence[Axes]) -> None:
    """The same range in both panels."""
    low = min(axes.dataLim.x0 for axes in panels)
    high = max(axes.dataLim.x1 for axes in panels)
    for axes in panels:
        if low > 0 and high / low > HALF_DECADE:
            axes.set_xscale("log")
            axes.set_xlim(low / 1.3, high * 1.3)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > DECADE else (1, 1.5, 2, 3, 5, 7)))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlim(0, 1.25 * high or 1)  # 0 where all latents are dead
        axes.xaxis.set_major_formatter(FuncFormatter(short_number))
        axes.set_xlabel("L0: active latents per token" + (" (log scale)" if axes.get_xscale() == "log" else ""))


def _recovered_axis(axes: Axes) -> None:
    """Better is up; logarithmic in what is lost where that spans decades, so that 0.99 and 0.999 lie apart."""
    low, high = axes.dataLim.intervaly
    if high < 1 and (1 - low) / (1 - high) > DECADE:
        axes.set_yscale(
            "function", functions=(lambda y: -np.log(1 - np.minimum(y, 1 - 1e-9)), lambda y: 1 - np.exp(-y))
        )
        axes.set_ylim(1 - (1 - low) * 1.3, 1 - (1 - high) / 1.3)
        lost = [step * 10.0**power for power in range(-7, 2) for step in (1, 2, 5)]
        inside = [1 - each for each in lost if low <= 1 - each <= high]
        axes.set_yticks(inside, labels=[f"{each:.7g}" for each in inside])
    axes.set_ylabel("CE recovered" + (" (log scale of what is lost)" if axes.get_yscale() == "function" else ""))
    axes.set_title("CE recovered against L0: better is up and to the left")


def _fvu_axis(axes: Axes) -> None:
    low, high = axes.dataLim.intervaly
    if low > 0 and high / low > DECADE:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(short_number))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(8))
    axes.set_ylabel("FVU: share of the variance" + (" (log scale)" if axes.get_yscale() == "log" else ""))
    axes.set_title("FVU against L0: better is down and to the left")


def _legend(figure: Figure, markers: dict[str, str], recipe: str, suites: list[Suite]) -> None:
    """Which mark is which recipe, under the panels."""
    plain = {"linestyle": "", "color": GREY, "markeredgecolor": INK}
    entries = [
        Line2D([], [], marker=marker, label=name, markersize=8 if name == recipe else 6, **plain)
        for name, marker in markers.items()
    ]
    for suite, marker in zip(suites, cycle(PUBLISHED), strict=False):
        entries.append(Line2D([], [], marker=marker, label=f"published: {suite.name} ({suite.source})", **plain))
    figure.legend(handles=entries, loc="outside lower left", ncols=1 if suites else 4, frameon=False, fontsize=8.5)
