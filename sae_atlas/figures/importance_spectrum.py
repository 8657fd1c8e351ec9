"""Figure 5: how much each latent of the final snapshots matters: the sorted importances, all layers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sae_atlas.figures.scales import pivot
from sae_atlas.figures.style import (
    GREY,
    INK,
    all_dead,
    headline,
    layer_axis,
    layer_bar,
    layer_colours,
    page,
    save,
    style,
    value_axis,
)
from sae_atlas.io.tables import read_table

LEAST, LEAST_REST = 1e-9, 1e-6  # shares of the total importance below which nothing is drawn
# metric -> (how it is called, its marker)
COUNTS = {
    "alive": ("alive latents", "^"),
    "rank_99": ("latents that hold 99% of the importance", "o"),
    "participation_ratio": ("participation ratio", "s"),
}


def plot_importance_spectrum(
    latents: Sequence[str | Path],
    layers: Sequence[int],
    metrics: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
) -> None:
    """Draw the per-latent tables (metrics.sums) of `layers`, a file each, and counts from the table `metrics` of the recipe.

    title: base model and site. Raises AtlasError for an unknown colour map.
    """
    table = read_table(metrics)
    of_latents = [read_table(path) for path in latents]
    spectra = dict(zip(layers, map(_spectrum, of_latents), strict=True))
    tokens = int(of_latents[0]["held_out_tokens"].iloc[0])
    with style():
        figure = page(13.5, 5.6)
        sorted_panel, rest_panel, counts_panel = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        colours = layer_colours(colour_map, list(spectra))
        for layer, shares in spectra.items():
            ranks = np.arange(1, len(shares) + 1)
            options = {"color": colours[layer], "linewidth": 1.0, "rasterized": True}
            sorted_panel.plot(ranks, shares, **options)
            rest_panel.plot(ranks, 1 - np.cumsum(shares), **options)
        _log(sorted_panel, np.concatenate(list(spectra.values())), LEAST)
        sorted_panel.set_ylabel("importance, share of the layer's total (log scale)")
        sorted_panel.set_title("Importance of the latents, sorted")
        _log(rest_panel, np.concatenate([1 - np.cumsum(each) for each in spectra.values()]), LEAST_REST)
        rest_panel.axhline(0.01, color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
        rest_panel.set_ylabel("share of the importance beyond the rank (log scale)")
        rest_panel.set_title("What the latents beyond a rank hold")
        _counts(counts_panel, table)
        figure.legend(loc="outside lower right", ncols=len(COUNTS), frameon=False, fontsize=8.5)
        if len(colours) > 1:
            layer_bar(figure, [sorted_panel, rest_panel], colours)
        name = f"Importance spectrum: {title}, recipe {recipe}"
        below = (
            f"importance of a latent: mean over {tokens:,} held-out tokens of its squared contribution, "
            "(activation x decoder norm)²; final snapshots\n"
            "participation ratio: how many equally important latents would be as concentrated; dashed: 1% is left"
            + all_dead([layer for layer, shares in spectra.items() if not len(shares)])
        )
        headline(figure, name, below)
        save(figure, png, svg, name)


def _spectrum(latents: pd.DataFrame) -> np.ndarray:
    """Shares of the total importance, largest first, of the latents that have any."""
    importance = np.sort(latents["importance"].to_numpy())[::-1]
    shares = importance / max(importance.sum(), np.finfo(float).tiny)
    return shares[shares > LEAST]


def _log(axes: Axes, values: np.ndarray, least: float) -> None:
    """Both axes logarithmic, y not below `least`."""
    values = values[values > least] if (values > least).any() else np.array([least, 1.0])
    axes.set(xscale="log", xlabel="rank of the latent (log scale)")
    axes.set(yscale="log", ylim=(max(values.min() / 1.5, least), max(values.max(), 1e-3) * 1.5))


def _counts(axes: Axes, table: pd.DataFrame) -> None:
    """How many latents there are and how many matter, by layer."""
    drawn = []
    for metric, (name, marker) in COUNTS.items():
        line = pivot(table, metric).iloc[-1]
        axes.plot(range(len(line)), line, color=GREY, linewidth=0.8)
        axes.plot(range(len(line)), line, marker, color=INK, markersize=4, label=name)
        drawn.append(line.to_numpy(dtype=float))
    value_axis(axes, np.concatenate(drawn))
    layer_axis(axes, list(line.index))
    axes.set_ylabel("latents (log scale)" if axes.get_yscale() == "log" else "latents")
    axes.set_title("How many latents hold it")
