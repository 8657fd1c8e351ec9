"""Figure 10: which share of the latents other seeds find, too, by layer and by how often they fire."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sae_atlas.figures.layer_flow import SAME
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
)
from sae_atlas.io.tables import read_table

FEWEST = 20  # latents from which a share is drawn


def plot_seed_consistency(
    seeds: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
) -> None:
    """Draw the table `seeds` (metrics.seed_consistency) of one recipe. title: base model and site.

    Raises AtlasError for an unknown colour map.
    """
    table = read_table(seeds)
    others = list(dict.fromkeys(table["other"]))
    colours = layer_colours(colour_map, sorted(table["layer"].unique()))
    dead = sorted(table.loc[table["latent"] < 0, "layer"].unique())
    table = table[table["latent"] >= 0]
    table = table.assign(same=table["cosine"] >= SAME, by_chance=table["chance"] >= SAME)
    with style():
        figure = page(12.5, 5.2)
        by_layer, by_density = figure.subplots(1, 2)
        _by_layer(by_layer, table, list(colours))
        if len(table):
            _by_density(by_density, table, colours)
        if len(colours) > 1:
            layer_bar(figure, by_density, colours)
        for axes in (by_layer, by_density):
            axes.set(ylim=(0, 1.02), ylabel=f"share of the latents with a partner of cosine ≥ {SAME:g}")
        entries = [
            Line2D([], [], marker="o", color=INK, label="median of the seeds"),
            Line2D([], [], marker="o", color=GREY, linestyle="", markersize=3, label="one other seed"),
            Line2D([], [], color=GREY, linestyle=":", label="chance"),
        ]
        figure.legend(handles=entries, loc="outside lower left", ncols=3, frameon=False)
        name = f"Latents that other seeds find, too: {title}, recipe {recipe}"
        against = others[0] if len(others) == 1 else f"each of {len(others)} other seeds"
        below = (
            f"the closest decoder direction of {against} to that of every latent that fired on held-out text, final snapshots\n"
            "chance: random directions with the second moments of the layer's decoder" + all_dead(dead)
        )
        headline(figure, name, below)
        save(figure, png, svg, name)


def _by_layer(axes: Axes, table: pd.DataFrame, layers: list[int]) -> None:
    shares = table.groupby(["other", "layer"])[["same", "by_chance"]].mean().reset_index()
    index_of = {layer: index for index, layer in enumerate(layers)}
    axes.plot(shares["layer"].map(index_of), shares["same"], "o", color=GREY, markersize=3)
    of_layer = shares.groupby("layer")[["same", "by_chance"]].median(numeric_only=True).reindex(layers)
    axes.plot(range(len(layers)), of_layer["same"], "o-", color=INK, linewidth=1.4, markersize=4.5)
    axes.plot(range(len(layers)), of_layer["by_chance"], ":", color=GREY)
    layer_axis(axes, layers)
    axes.set_title("By layer")


def _by_density(axes: Axes, table: pd.DataFrame, colours: dict[int, tuple]) -> None:
    """Bins of half a decade of how often a latent fires, those with few latents left out."""
    low, high = np.log10(table["density"].min()), np.log10(table["density"].max())
    first = np.floor(2 * low)
    edges = np.arange(first, max(np.ceil(2 * high), first + 1) + 1) / 2
    bins = np.digitize(np.log10(table["density"]), edges[1:-1])
    for layer, colour in colours.items():
        rows = table[table["layer"] == layer]
        groups = rows.groupby(bins[table["layer"] == layer])
        shares = groups["same"].mean()[groups["latent"].nunique() >= FEWEST]
        middle = 10 ** ((edges[:-1] + edges[1:]) / 2)
        axes.plot(middle[shares.index], shares, "o-", color=colour, linewidth=1, markersize=3.5)
    axes.set_xscale("log")
    axes.set_xlabel("density: share of the held-out tokens on which a latent fires (log scale)")
    axes.set_title(f"By density, at least {FEWEST} latents")
