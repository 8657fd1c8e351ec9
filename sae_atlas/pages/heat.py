"""The heatmap as a table of links: the cells, scales and colours of figure 2."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from sae_atlas.figures.metrics_heatmap import OVER_SNAPSHOTS, greys, readable_on
from sae_atlas.figures.scales import pivot, scale_of, value_text
from sae_atlas.figures.style import colour_map
from sae_atlas.metrics.labels import GROUPS, METRICS, name_of


@dataclass(frozen=True)
class Cell:
    """One value and its colours as CSS, None where there is no value."""

    layer: int
    text: str
    fill: str | None
    ink: str | None


@dataclass(frozen=True)
class Line:
    """One row of a heatmap: a metric at a snapshot, one cell per layer."""

    name: str
    arrow: str
    unit: str
    snapshot: str
    cells: list[Cell]
    median: str
    worst: str  # value at the worst end of the colour scale
    best: str
    strip: str  # the colour scale itself, worst to best, as CSS colours


def final_lines(table: pd.DataFrame, map_name: str) -> dict[str, list[Line]]:
    """Group -> lines of its metrics at the last snapshot, layers across. table: metrics of one recipe."""
    known = set(table["metric"])
    groups = {group: [metric for metric in metrics if metric in known] for group, metrics in GROUPS.items()}
    return {
        group: [line for metric in metrics for line in _lines(table, metric, map_name, [-1])]
        for group, metrics in groups.items()
        if metrics
    }


def snapshot_lines(table: pd.DataFrame, map_name: str) -> dict[str, list[Line]]:
    """Headline metric -> a line per snapshot, on one scale; nothing where there is only one snapshot."""
    count = table["snapshot"].nunique()
    known = [metric for metric in OVER_SNAPSHOTS if (table["metric"] == metric).any()] if count > 1 else []
    return {name_of(metric): _lines(table, metric, map_name, list(range(count))) for metric in known}


def _lines(table: pd.DataFrame, metric: str, map_name: str, snapshots: list[int]) -> list[Line]:
    label, chosen = METRICS[metric], pivot(table, metric).iloc[snapshots]
    scale = scale_of(label.better, chosen.to_numpy())
    colours = greys() if label.better is None else colour_map(map_name)
    unit = table.loc[table["metric"] == metric, "unit"].iloc[0]
    worst, best = map(value_text, scale.ends)
    return [
        Line(
            name=label.name,
            arrow=label.arrow,
            unit=unit,
            snapshot=str(snapshot),
            cells=[
                _cell(layer, value, colours(fraction))
                for layer, value, fraction in zip(row.index, row, scale(row.to_numpy()), strict=True)
            ],
            median=value_text(np.nanmedian(row)) if row.notna().any() else value_text(np.nan),
            worst=worst,
            best=best,
            strip=", ".join(to_hex(colours(fraction)) for fraction in np.linspace(0, 1, 9)),
        )
        for snapshot, row in chosen.astype(float).iterrows()
    ]


def _cell(layer: int, value: float, colour: tuple) -> Cell:
    if not np.isfinite(value):
        return Cell(int(layer), value_text(value), None, None)
    return Cell(int(layer), value_text(value), to_hex(colour), readable_on(colour))
