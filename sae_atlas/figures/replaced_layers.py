"""Figure 9: what the model loses when transcoders take the place of more and more layers at once."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sae_atlas.figures.style import GREY, headline, page, save, style, value_axis
from sae_atlas.figures.style import colour_map as colours
from sae_atlas.io.tables import read_table

# metric -> (title, what the y axis shows)
PANELS = {
    "ce_recovered": ("CE recovered ↑", "share, the same layers zeroed"),
    "ce_increase": ("CE increase ↓", "nats per token"),
    "kl": ("KL from the clean model ↓", "nats per token"),
}


def plot_replaced_layers(
    replaced: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
) -> None:
    """Draw the table `replaced` (metrics.replaced_layers) of one recipe. title: base model and sites.

    Raises AtlasError for an unknown colour map.
    """
    table = read_table(replaced)
    colour = colours(colour_map)(0.4)
    with style():
        figure = page(12.5, 4.6)
        for axes, (metric, (name, label)) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            _draw(axes, table[table["metric"] == metric], colour)
            axes.set(title=name, xlabel="layers replaced, from the first on")
            axes.set_ylabel(f"{label} (log scale)" if axes.get_yscale() == "log" else label)
        name = f"Transcoders in place of many layers: {title}, recipe {recipe}"
        below = (
            "the transcoders of the first layers take their targets' place all at once, so that errors add up; bars: "
            "95% intervals\n"
            f"final snapshots, losses on {table['held_out_tokens'].max():,} held-out tokens"
        )
        headline(figure, name, below)
        save(figure, png, svg, name)


def _draw(axes: Axes, rows: pd.DataFrame, colour: tuple) -> None:
    span = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    if not rows["low"].isna().any():
        axes.errorbar(rows["layers"], rows["value"], span, fmt="none", ecolor=GREY, elinewidth=1, capsize=2.5)
    axes.plot(rows["layers"], rows["value"], "o-", color=colour, linewidth=1.4, markersize=4)
    axes.set_xlim(0, rows["layers"].max() + 1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    value_axis(axes, rows[["low", "value", "high"]].to_numpy().ravel())
