"""Figure 2: all metrics of all layers at the final snapshot, and the headline metrics over the snapshots."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sae_atlas.figures.scales import Scale, pivot, scale_of, value_text
from sae_atlas.figures.style import FAINT, GREY, INK, colour_map, headline, save, short_number, spread, style
from sae_atlas.io.tables import read_table
from sae_atlas.metrics.labels import GROUPS, METRICS, NO_LOSSES, OF_TASKS
from sae_atlas.metrics.loss_recovered import is_harmless

OVER_SNAPSHOTS = ("ce_recovered", "fvu", "l0", "dead_share", "mcc", "f1")
# Everything is placed in inches.
CELL_HEIGHT, LEFT, RIGHT, TOP = 0.27, 3.0, 3.1, 1.02
FOOT = (
    "Colour: each metric on its own scale, worst to best, at the right; log where it spans more than a factor of 10; "
    "values far outside have the colour of its end.",
    "↑ higher is better, ↓ lower is better, → 1 best at 1, grey: neither; no unit: a ratio. Median: over layers. "
    "± : half of the 95% bootstrap interval over held-out contexts, median over layers.",
)
OF_WHAT = "Intervals of topics and ablations are over documents, of letters over words, of the latents of a letter over letters"


def plot_metrics_heatmap(
    metrics: str | Path,
    png: str | Path,
    svg: str | Path,
    title: str,
    recipe: str,
    colour_map: str,
) -> None:
    """Draw the table `metrics` (metrics.evaluate.METRIC_COLUMNS) of one recipe. title: base model and site.

    Raises AtlasError for an unknown colour map.
    """
    table = read_table(metrics)
    with style():
        page = _Page(table, colour_map)
        page.final()
        if table["snapshot"].nunique() > 1:
            page.over_snapshots()
        name = f"{title}, recipe {recipe}"
        save(page.finish(name, _below(table)), png, svg, f"Metrics: {name}")


def _below(table: pd.DataFrame) -> str:
    """What was trained and what measured, a line each."""
    layers, snapshots = table["layer"].nunique(), table["snapshot"].nunique()
    held_out = table.groupby("metric")["held_out_tokens"].max()
    trained = f"{layers} layer{'s' * (layers > 1)} x {snapshots} snapshot{'s' * (snapshots > 1)}"
    measured = []
    if "fvu" in held_out:
        measured.append(f"measured on {held_out['fvu']:,} held-out tokens")
    if "ce_sae" in held_out:
        losses = {each: pivot(table, each).iloc[-1].median() for each in ("ce_clean", "ce_zero", "ce_mean")}
        measured.append(
            f"losses on {held_out['ce_sae']:,} of them: CE {losses['ce_clean']:.3f} nats clean, "
            f"{losses['ce_zero']:.2f} with zeros, {losses['ce_mean']:.2f} with the mean (median of layers)"
        )
    else:
        measured.append(NO_LOSSES)
    return f"{trained}, trained on {short_number(table['tokens'].max())} tokens each\n{'; '.join(measured)}"


def _harmless(table: pd.DataFrame) -> list[str]:
    """A line for each ablation of which CE recovered is a share of nothing."""
    if "ce_clean" not in set(table["metric"]):
        return []
    clean, lines = pivot(table, "ce_clean").iloc[-1], []
    for ablation in ("zero", "mean"):
        ablated = pivot(table, f"ce_{ablation}").iloc[-1]
        if layers := ", ".join(map(str, ablated.index[is_harmless(ablated, clean)])):
            lines.append(
                f"CE recovered, {ablation} ablation, says nothing of layer {layers}: there it does not raise the loss."
            )
    return lines


@dataclass
class _Page:
    """The figure as it grows downwards. Coordinates of `axes` are inches from the upper left corner."""

    table: pd.DataFrame
    map_name: str
    y: float = TOP
    axes: Axes = field(init=False)
    figure: Figure = field(init=False)

    def __post_init__(self):
        self.colours = colour_map(self.map_name)
        self.greys = greys()
        self.layers = sorted(self.table["layer"].unique())
        self.cell = min(max(11.5 / len(self.layers), 0.2), 0.6)
        self.width = max(LEFT + self.cell * len(self.layers) + RIGHT, 11.0)
        self.figure = Figure()
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()

    @property
    def right(self) -> float:
        """Right edge of the cells."""
        return LEFT + self.cell * len(self.layers)

    def final(self) -> None:
        """Part a: metrics x layers at the last snapshot."""
        self.part("a", "Every metric at the final snapshot")
        for group, metrics in GROUPS.items():
            measured = [metric for metric in metrics if (self.table["metric"] == metric).any()]
            if not measured:
                continue
            self.text(0.15, self.y + 0.12, group, color=GREY, fontsize=8.5, fontstyle="italic")
            self.y += 0.26
            for metric in measured:
                self.row(metric, [-1])
            self.y += 0.08

    def over_snapshots(self) -> None:
        """Part b: snapshots x layers of the headline metrics."""
        self.y += 0.3
        self.part("b", "The headline metrics over the snapshots")
        for metric in OVER_SNAPSHOTS:
            if (self.table["metric"] == metric).any():
                self.row(metric, list(range(self.table["snapshot"].nunique())))
                self.y += 0.14

    def part(self, letter: str, title: str) -> None:
        """Heading, the numbers of the layers, and the heads of the columns at the right."""
        self.text(0.15, self.y, f"{letter}  {title}", fontsize=10.5, fontweight="bold")
        self.y += 0.27
        self.text(LEFT - 0.1, self.y, "layer", ha="right", color=GREY, fontsize=8)
        most = 60 if self.cell >= 0.24 else 24
        for index in spread(len(self.layers), most):
            self.text(LEFT + (index + 0.5) * self.cell, self.y, self.layers[index], ha="center", color=GREY, fontsize=8)
        for x, head in zip(self.columns, ("median", "±", "scale: worst to best"), strict=True):
            self.text(x, self.y, head, ha="center", color=GREY, fontsize=8)
        self.y += 0.16

    @property
    def columns(self) -> tuple[float, float, float]:
        """Centres of the columns right of the cells: median, half interval, colour strip."""
        return self.right + 0.38, self.right + 0.93, self.right + 2.08

    def row(self, metric: str, snapshots: list[int]) -> None:
        """Cells of one metric, one line per snapshot, with its own scale."""
        about, values = METRICS[metric], pivot(self.table, metric)
        half = (pivot(self.table, metric, "high") - pivot(self.table, metric, "low")) / 2
        chosen = values.iloc[snapshots]
        scale = scale_of(about.better, chosen.to_numpy())
        colours = self.greys if about.better is None else self.colours
        self.label(metric, snapshots)
        for name, line in chosen.iterrows():
            if len(snapshots) > 1:
                self.text(LEFT - 0.1, self.y + CELL_HEIGHT / 2, name, ha="right", fontsize=8)
            self.cells(line.to_numpy(dtype=float), scale, colours)
            middle, width = np.nanmedian(line), half.loc[name]
            self.text(self.columns[0], self.y + CELL_HEIGHT / 2, value_text(middle), ha="center", fontsize=8)
            if width.notna().any():
                text = value_text(np.nanmedian(width))
                self.text(self.columns[1], self.y + CELL_HEIGHT / 2, text, ha="center", fontsize=8, color=GREY)
            self.y += CELL_HEIGHT
        self.strip(scale, colours, self.y - CELL_HEIGHT * (len(snapshots) + 1) / 2)

    def label(self, metric: str, snapshots: list[int]) -> None:
        """Name, direction and unit left of the cells; the unit on a line of its own where there is room."""
        about = METRICS[metric]
        unit = self.table.loc[self.table["metric"] == metric, "unit"].iloc[0]
        name = f"{about.name} {about.arrow}".strip()
        if len(snapshots) > 1:
            self.text(0.3, self.y + CELL_HEIGHT / 2, name, fontsize=8.5)
            self.text(0.3, self.y + CELL_HEIGHT * 1.35, unit, fontsize=7.5, color=GREY)
            return
        self.text(0.3, self.y + CELL_HEIGHT / 2, name, fontsize=8.5)
        self.text(LEFT - 0.1, self.y + CELL_HEIGHT / 2, unit, ha="right", fontsize=7.5, color=GREY)

    def cells(self, values: np.ndarray, scale: Scale, colours: Colormap) -> None:
        positions = scale(values)
        fontsize = min(7.5, 7.0 * self.cell / 0.37)
        for number, (value, position) in enumerate(zip(values, positions, strict=True)):
            x, known = LEFT + number * self.cell, np.isfinite(value)
            fill = colours(position) if known else "white"
            box = Rectangle((x, self.y), self.cell, CELL_HEIGHT, facecolor=fill, edgecolor="white", linewidth=0.8)
            self.axes.add_patch(box)
            if fontsize >= 5.5:
                ink = readable_on(fill) if known else GREY
                self.text(
                    x + self.cell / 2,
                    self.y + CELL_HEIGHT / 2,
                    value_text(value),
                    ha="center",
                    color=ink,
                    fontsize=fontsize,
                )

    def strip(self, scale: Scale, colours: Colormap, y: float) -> None:
        """A small colour bar with the values at its two ends."""
        centre, half = self.columns[2], 0.38
        steps = np.linspace(0, 1, 64)
        edges = np.linspace(centre - half, centre + half, len(steps) + 1)
        self.axes.pcolormesh(edges, [y + 0.07, y + CELL_HEIGHT - 0.07], steps[None], cmap=colours, vmin=0, vmax=1)
        for x, where, value in zip(
            (centre - half - 0.06, centre + half + 0.06), ("right", "left"), scale.ends, strict=True
        ):
            self.text(x, y + CELL_HEIGHT / 2, value_text(value), ha=where, fontsize=7.5)

    def text(self, x: float, y: float, text: object, **options) -> None:
        self.axes.text(x, y, str(text), **{"ha": "left", "va": "center_baseline", "color": INK, **options})

    def finish(self, title: str, below: str) -> Figure:
        self.y += 0.12
        self.axes.plot([0.15, self.width - 0.15], [self.y, self.y], color=FAINT, linewidth=0.8)
        lines = [*FOOT, *_harmless(self.table)]
        if {*self.table["metric"]} & {*OF_TASKS}:
            lines.append(OF_WHAT)
        for number, line in enumerate(lines):
            self.text(0.15, self.y + 0.16 + 0.19 * number, line, fontsize=7.5, color=GREY)
        height = self.y + 0.17 + 0.19 * len(lines)
        self.figure.set_size_inches(self.width, height)
        self.axes.set(xlim=(0, self.width), ylim=(height, 0))
        headline(self.figure, title, below)
        return self.figure


def greys() -> Colormap:
    """Light greys, so that cells without a better direction never look like a verdict."""
    return LinearSegmentedColormap.from_list("neutral", ["#f3f5f7", "#b4bdc6"])


def readable_on(fill: tuple) -> str:
    """Black on light cells, white on dark ones: at least 4.5 to 1 on any colour (WCAG 2.2, contrast minimum)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in fill[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if luminance > 0.179 else "white"  # there both contrasts are equal
