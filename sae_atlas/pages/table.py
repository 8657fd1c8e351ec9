"""The metrics table of the page: a row per recipe, layer and snapshot, the headline metrics with their intervals."""

import math
from dataclasses import dataclass

import pandas as pd

from sae_atlas.metrics.labels import METRICS
from sae_atlas.publish.cards.markdown import interval, number

HEADLINES = ("ce_recovered", "ce_increase", "kl", "fvu", "fvu_without_outliers", "l0", "dead_share", "mcc", "f1")


@dataclass(frozen=True)
class Column:
    """A metric as the head of a column."""

    metric: str
    name: str
    arrow: str
    unit: str


@dataclass(frozen=True)
class Value:
    """A cell: `sort` is the exact value, empty where there is none."""

    text: str
    interval: str
    sort: str


@dataclass(frozen=True)
class Row:
    """One SAE at one snapshot."""

    recipe: str
    layer: int
    snapshot: str
    tokens: int
    values: list[Value]


def columns(table: pd.DataFrame) -> list[Column]:
    """The headline metrics that the table has."""
    units = table.drop_duplicates("metric").set_index("metric")["unit"]
    return [
        Column(metric, METRICS[metric].name, METRICS[metric].arrow, units[metric])
        for metric in HEADLINES
        if metric in units
    ]


def rows(table: pd.DataFrame, headlines: list[Column]) -> list[Row]:
    """In the order of the table: recipe, layer, snapshot. table: metrics.evaluate.METRIC_COLUMNS."""
    of_page = []
    for (recipe, layer, snapshot), group in table.groupby(["recipe", "layer", "snapshot"], sort=False):
        by_metric = group.set_index("metric").to_dict("index")
        values = [_value(by_metric.get(column.metric)) for column in headlines]
        of_page.append(Row(str(recipe), int(layer), str(snapshot), int(group["tokens"].iloc[0]), values))
    return of_page


def _value(row: dict | None) -> Value:
    value = _finite(row["value"]) if row else None
    if value is None:
        return Value("–", "", "")
    return Value(number(value), interval({end: _finite(row[end]) for end in ("low", "high")}), repr(value))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
