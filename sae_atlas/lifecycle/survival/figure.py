"""Figure: which latents of a base model survive its fine-tuning, by direction and by activation, layer by layer."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sae_atlas.figures.style import GREY, colour_map, headline, layer_axis, page, save, style
from sae_atlas.metrics.directions import SETTLED

SPREAD = (5, 25, 50, 75, 95)  # percentiles drawn
WIDTH = 0.26  # of a layer's place on the axis, for one comparison


def plot_survival(tables: dict[str, pd.DataFrame], png: str | Path, svg: str | Path, title: str, colours: str) -> None:
    """tables: name of a comparison -> rows of survival.compare. title: what is compared. colours: a colour map's name."""
    layers = sorted(next(iter(tables.values()))["layer"].unique())
    shades = dict(zip(tables, colour_map(colours)(np.linspace(0.08, 0.78, len(tables))), strict=True))
    with style():
        figure = page(12.5, 6.6)
        left, right = figure.subplots(1, 2)
        for number, (name, table) in enumerate(tables.items()):
            shift = (number - (len(tables) - 1) / 2) * WIDTH
            for axes, column in ((left, "match"), (right, "change")):
                _boxes(axes, table, layers, column, shift, shades[name], name)
        chance = next(iter(tables.values())).drop_duplicates("layer").set_index("layer")["chance"].loc[layers]
        x = np.arange(len(layers))
        random = {"color": GREY, "linestyle": ":", "label": "closest of as many random directions"}
        left.hlines(chance, x - 0.45, x + 0.45, **random)
        left.axhline(SETTLED, color=GREY, linewidth=1, linestyle=(0, (5, 3)), label=f"{SETTLED}: counts as surviving")
        left.set(ylim=(0, 1.02), ylabel="cosine of decoder directions")
        left.set_title("Direction: closest latent of the SAE trained after", fontsize=10)
        right.set(ylim=(0, 1.02), ylabel="change of activation, 0 none to 1 all")
        right.set_title("Activation: the same latent reading the model after", fontsize=10)
        for axes in (left, right):
            layer_axis(axes, layers)
            axes.grid(axis="x", visible=False)
        handles, names = left.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower left", ncols=3, frameon=False)
        below = (
            "alive latents of the SAE before; dot: median, thick bar: middle half, thin bar: middle nine tenths\n"
            "change: sum |f' - f| / sum (f' + f) over the same held-out tokens"
        )
        headline(figure, title, below)
        save(figure, png, svg, title)


def _boxes(axes: Axes, table: pd.DataFrame, layers: list[int], column: str, shift: float, colour, name: str) -> None:
    """Percentiles of a column in every layer."""
    ends = np.array([np.nanpercentile(table.loc[table["layer"] == layer, column], SPREAD) for layer in layers])
    x, thick = np.arange(len(layers)) + shift, min(5, 75 / len(layers))  # points
    axes.vlines(x, ends[:, 0], ends[:, 4], color=colour, linewidth=thick / 4)
    axes.vlines(x, ends[:, 1], ends[:, 3], color=colour, linewidth=thick, label=name)
    dots = {"color": "white", "markeredgecolor": colour, "markersize": thick, "zorder": 3}
    axes.plot(x, ends[:, 2], "o", clip_on=False, **dots)  # whole also at 0, where the control lies
