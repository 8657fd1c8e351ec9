"""What all figures share: type, colours, layers as an ordered colour scale, axes in tokens, reproducible files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sae_atlas.io.errors import AtlasError, nearest
from sae_atlas.io.files import atomic
from sae_atlas.io.provenance import current_record

INK, GREY, FAINT = "#1c2127", "#5f6b76", "#d9dee3"
# Ordered in lightness and told apart with any kind of colour vision.
COLOUR_MAPS = ("viridis", "cividis", "plasma", "inferno", "magma")
DECADE = 10.0  # a quantity that spans more than this factor gets a log axis
RESOLUTION = 160  # dots per inch of the PNG

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.hashsalt": "sae-atlas",
    "savefig.facecolor": "white",
}


def style():
    """Context in which a figure is drawn and saved; whatever the user's own matplotlib settings are."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **STYLE})


def colour_map(name: str) -> Colormap:
    """The colour map, if it is one that everybody can read. Raises AtlasError otherwise."""
    if name not in COLOUR_MAPS:
        raise AtlasError(f"figures.colour_map: {name!r} is not a colour-blind safe map; {nearest(name, COLOUR_MAPS)}")
    return matplotlib.colormaps[name]


def layer_colours(name: str, layers: Sequence[int]) -> dict[int, tuple]:
    """One colour per layer, dark to light with depth; the lightest end is left out, it vanishes on white."""
    chosen = colour_map(name)(np.linspace(0.02, 0.88, len(layers)))
    return {layer: tuple(colour) for layer, colour in zip(layers, chosen, strict=True)}


def layer_bar(figure: Figure, axes, colours: dict[int, tuple]) -> None:
    """Colour bar that says which colour is which layer."""
    layers = list(colours)
    mappable = ScalarMappable(
        BoundaryNorm(np.arange(len(layers) + 1) - 0.5, len(layers)), ListedColormap(list(colours.values()))
    )
    bar = figure.colorbar(mappable, ax=axes, fraction=0.025, pad=0.015, aspect=45, drawedges=len(layers) <= 40)
    bar.dividers.set(color="white", linewidth=0.6)
    bar.outline.set_visible(False)
    indices = spread(len(layers), 12)
    bar.set_ticks(indices, labels=[str(layers[index]) for index in indices])
    bar.minorticks_off()
    bar.ax.tick_params(length=0)
    bar.ax.invert_yaxis()  # layer 0 on top, as one reads
    bar.set_label("layer")


def spread(count: int, most: int) -> list[int]:
    """At most about `most` evenly spaced places of 0 .. count - 1, the first among them."""
    return list(range(0, count, math.ceil(count / most))) if count else []


def short_number(value: float, _=None) -> str:
    """`40k`, `1.5M`, `0`: numbers as the config writes them, rounded to three digits."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def tokens_axis(axes: Axes, last: float) -> None:
    """x from 0 to `last` training tokens."""
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 4, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    axes.set_xlabel("training tokens")


def value_axis(axes: Axes, values: np.ndarray) -> None:
    """y axis that fits `values`: log where they span decades, from 0 where they hardly vary."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > DECADE:
        axes.set_yscale("log")
        few = math.log10(high / low) < 2.5
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator() if few else LogLocator(subs=tuple(range(2, 10)), numticks=12))
        axes.set_ylim(low / 1.25, high * 1.25)
    elif high == low == 0:
        axes.set_ylim(0, 1)
    elif low >= 0 and high - low < 0.02 * high:
        axes.set_ylim(0, 1.3 * high)
    elif low >= 0 and low < 0.5 * high:
        axes.set_ylim(0, 1.05 * high)
    axes.yaxis.set_major_formatter(FuncFormatter(short_number))


def layer_axis(axes: Axes, names: Sequence[object], label: str = "layer") -> None:
    """x axis with a place 0, 1, ... for each of `names`, as many of them written as there is room for."""
    axes.set_xlim(-0.5, len(names) - 0.5)
    indices = spread(len(names), 16)
    axes.set_xticks(indices, labels=[str(names[index]) for index in indices])
    axes.set_xlabel(label)


def page(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose panels leave room for the headline."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.85 / height), w_pad=0.12, h_pad=0.1, hspace=0.05)
    return figure


def headline(figure: Figure, title: str, below: str, top: float = 0.12) -> None:
    """Title and grey lines under it at the upper left; `top`: inches between the figure's edge and the title."""
    width, height = figure.get_size_inches()
    left = 0.15 / width
    figure.text(left, 1 - top / height, title, ha="left", va="top", fontsize=13, fontweight="bold")
    figure.text(left, 1 - (top + 0.28) / height, below, ha="left", va="top", fontsize=9, color=GREY, linespacing=1.35)


def all_dead(layers: Sequence[int]) -> str:
    """What stands under a figure that has nothing of these layers to show."""
    return f"; no latent fired in layer {', '.join(map(str, layers))}" if layers else ""


def save(figure: Figure, png: str | Path, svg: str | Path, title: str) -> None:
    """Write both files atomically, without dates; identity and settings of the job at work go into their metadata."""
    record = current_record() or {"stage": "outside a workflow", "identity": None, "settings": {}}
    about = f"SAE Atlas, {record['stage']}, identity {record['identity']}"
    settings = json.dumps(record["settings"], sort_keys=True)
    with atomic(png) as partial:
        metadata = {"Title": title, "Source": about, "Comment": settings}
        figure.savefig(partial, format="png", dpi=RESOLUTION, metadata=metadata)
    figure.set_layout_engine("none")  # the SVG has the layout that the PNG got
    with atomic(svg) as partial:
        figure.savefig(partial, format="svg", dpi=RESOLUTION, metadata={"Title": title, "Source": about, "Date": None})
