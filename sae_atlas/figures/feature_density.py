"""Figure 4: how often the latents of the final snapshots fire: the distribution of their densities, all layers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_atlas.figures.style import (
    GREY,
    colour_map,
    headline,
    layer_axis,
    layer_bar,
    layer_colours,
    page,
    save,
    style,
)
from sae_atlas.io.tables import read_table


def plot_feature_density(
    latents: Sequence[str | Path],
    layers: Sequence[int],
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
) -> None:
    """Draw the per-latent tables (metrics.sums) of `layers`, a file each. title: base model and site.

    Raises AtlasError for an unknown colour map.
    """
    tables = dict(zip(layers, map(read_table, latents), strict=True))
    tokens = int(next(iter(tables.values()))["held_out_tokens"].iloc[0])
    densities = {layer: table["density"].to_numpy() for layer, table in tables.items()}
    edges = bins(tokens)
    shares = {layer: np.histogram(each, edges)[0] / len(each) for layer, each in densities.items()}
    dead = np.array([(each == 0).mean() for each in densities.values()])
    with style():
        figure = page(13.5, 5.8)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        colours = layer_colours(colour_map, list(shares))
        _lines(left, edges, shares, colours)
        _heatmap(figure, right, edges, shares, dead, colour_map)
        if len(colours) > 1:
            layer_bar(figure, left, colours)
        name = f"Feature density: {title}, recipe {recipe}"
        below = (
            f"how often each of the {len(next(iter(densities.values()))):,} latents of a final snapshot fires, on "
            f"{tokens:,} held-out tokens\n"
            "bins of a factor of 2: once, 2 to 3 times, 4 to 7 times, ...; dead: never on these tokens"
        )
        headline(figure, name, below)
        save(figure, png, svg, name)


def bins(tokens: int) -> np.ndarray:
    """Edges of bins of a factor of 2: once, 2 to 3 times, 4 to 7 times, ... of all tokens.

    Each holds as many whole numbers as it is wide, so that rare firings show no teeth.
    """
    return (2.0 ** np.arange(int(np.log2(tokens)) + 2) - 0.5) / tokens


def _lines(axes: Axes, edges: np.ndarray, shares: dict[int, np.ndarray], colours: dict[int, tuple]) -> None:
    """A line per layer through the middles of the bins."""
    middles = np.sqrt(edges[1:] * edges[:-1])
    for layer, share in shares.items():
        axes.plot(middles, share, color=colours[layer], linewidth=1.1)
    axes.set(xscale="log", xlim=(edges[0], 1), ylim=(0, None))
    axes.set(xlabel="density: share of the tokens (log scale)", ylabel="share of the latents, per bin")
    axes.set_title("Latents by how often they fire")


def _heatmap(
    figure: Figure, axes: Axes, edges: np.ndarray, shares: dict[int, np.ndarray], dead: np.ndarray, map_name: str
) -> None:
    """Layers x densities, and under them, apart, the latents that never fired."""
    layers = list(shares)
    columns = np.arange(len(layers) + 1) - 0.5
    cells = np.column_stack(list(shares.values()))
    options = {"cmap": colour_map(map_name), "vmin": 0, "vmax": max(cells.max(), dead.max(), 1e-9), "rasterized": True}
    drawn = axes.pcolormesh(columns, edges, cells, **options)
    bottom, top = edges[0] / 5, edges[0] / 1.6
    axes.pcolormesh(columns, [bottom, top], dead[None], **options)
    axes.set(yscale="log", ylim=(bottom, 1), ylabel="density: share of the tokens (log scale)")
    axes.grid(False)
    axes.text(
        -0.02, np.sqrt(bottom * top), "dead", transform=axes.get_yaxis_transform(), ha="right", va="center", color=GREY
    )
    axes.set_yticks([each for each in axes.get_yticks() if edges[0] <= each <= 1])
    axes.minorticks_off()
    layer_axis(axes, layers)
    axes.set_title("Layer by layer")
    bar = figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.015)
    bar.set_label("share of the layer's latents")
    bar.outline.set_visible(False)
