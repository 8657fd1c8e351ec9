"""Figure 7: which latents persist, appear and vanish from layer to layer."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from sae_atlas.figures.style import INK, all_dead, headline, layer_axis, page, save, style
from sae_atlas.figures.style import colour_map as colours
from sae_atlas.io.tables import read_table

EDGES = np.linspace(0, 1, 41)
SAME = 0.7  # cosine from which a latent counts as the same one layer on: half of its direction's energy is common
OUTLINE = [withStroke(linewidth=2.6, foreground="white")]


def plot_layer_flow(
    flow: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
) -> None:
    """Draw the table `flow` (metrics.flow) of one recipe. title: base model and site.

    Raises AtlasError for an unknown colour map.
    """
    table = read_table(flow)
    layers = sorted(table["layer"].unique())
    pairs = list(pairwise(layers))
    ways = {"next": layers[:-1], "previous": layers[1:]}
    cosines = {
        way: [table.loc[table["layer"] == layer, way].dropna().to_numpy() for layer in ways[way]] for way in ways
    }
    cells = {way: np.column_stack([_shares(each) for each in of_layers]) for way, of_layers in cosines.items()}
    most = max(each.max() for each in cells.values()) or 1
    dead = sorted(table.loc[table["latent"] < 0, "layer"])
    chances = table.drop_duplicates("layer").set_index("layer")["chance"]
    with style():
        figure = page(12.5, 7.6)
        onward, backward = figure.subplots(2, 1, sharex=True)
        for axes, way in ((onward, "next"), (backward, "previous")):
            columns = np.arange(len(pairs) + 1) - 0.5
            options = {"cmap": colours(colour_map), "vmin": 0, "vmax": most, "rasterized": True}
            drawn = axes.pcolormesh(columns, EDGES, cells[way], **options)
            chance = chances.reindex(ways["previous" if way == "next" else "next"])  # of the layer searched
            _lines(axes, columns, cosines[way], chance)
        onward.set_title("Latents of a layer: are they there one layer on? Below the dashed line they vanish")
        backward.set_title("Latents of the next layer: were they there before? Below the dashed line they appear")
        layer_axis(backward, [f"{first}→{second}" for first, second in pairs], "from layer to layer")
        bar = figure.colorbar(drawn, ax=[onward, backward], fraction=0.03, pad=0.015, aspect=40)
        bar.set_label("share of the layer's latents, per bin of 0.025")
        bar.outline.set_visible(False)
        name = f"Flow of the latents through the layers: {title}, recipe {recipe}"
        below = (
            "cosine between the decoder direction of every latent that fired and the closest one of the neighbouring "
            "layer, final snapshots\n"
            f"dashed: {SAME:g}, from where it counts as the same latent; dots: share of the latents above it; dotted: the "
            "closest of as many random directions" + all_dead(dead)
        )
        headline(figure, name, below)
        save(figure, png, svg, name)


def _shares(cosines: np.ndarray) -> np.ndarray:
    """Share of the latents in every bin; those pointing away are in the lowest."""
    return np.histogram(cosines.clip(0, 1), EDGES)[0] / max(len(cosines), 1)


def _lines(axes: Axes, columns: np.ndarray, cosines: list[np.ndarray], chance: pd.Series) -> None:
    """The threshold, what chance would give, and the share of the latents above the threshold."""
    axes.axhline(SAME, color="white", linewidth=1.0, linestyle=(0, (5, 3)))
    axes.hlines(chance, columns[:-1], columns[1:], color="white", linestyle=":")
    same = [float((each >= SAME).mean()) if len(each) else np.nan for each in cosines]
    axes.plot(same, "o-", color=INK, linewidth=1.2, markersize=3.5, path_effects=OUTLINE, clip_on=False)
    axes.set(ylim=(0, 1), ylabel="cosine; dots: share of the latents")
    axes.grid(False)
