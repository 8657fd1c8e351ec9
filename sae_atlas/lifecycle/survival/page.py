"""The page that compares the atlases of a base model before and after its fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sae_atlas.io.files import atomic, read_json
from sae_atlas.io.provenance import current_record
from sae_atlas.io.tables import read_table
from sae_atlas.lifecycle.survival.figure import plot_survival
from sae_atlas.metrics.directions import SETTLED
from sae_atlas.pages.html import fill

MOVED = 10  # latents listed per comparison
LEAST = 5e-4  # change of those listed: the page shows three digits


@dataclass(frozen=True)
class Line:
    """A row of the page's table."""

    comparison: str
    layer: int
    alive: int
    surviving: float  # share of the alive latents whose direction is there after
    match: float
    chance: float
    change: float
    silent: float  # share of the alive latents that fire no more


def write_page(
    tables: Sequence[str | Path],
    models: Sequence[str | Path],
    page: str | Path,
    png: str | Path,
    svg: str | Path,
    comparisons: Sequence[str],
    stages: Sequence[str],
    recipe: str,
    colour_map: str,
) -> None:
    """Write `page` and its figure; png lies beside the page, which lies in survival/RECIPE under the results.

    tables: of survival.compare, one for each of `comparisons`. models: export_meta.json of the model that our rules made for
    each of `stages`, whose atlas lies in a folder of this name beside the results.
    """
    read = dict(zip(comparisons, map(read_table, tables), strict=True))
    plot_survival(read, png, svg, f"Which latents survive, recipe {recipe}", colour_map)
    text = fill(
        "survival.html.jinja",
        metas=dict(zip(stages, map(read_json, models), strict=True)),
        atlases={stage: f"../../../{stage}/results/index.html" for stage in stages},
        lines=[line for name, table in read.items() for line in _lines(name, table)],
        changed={name: _most_changed(table) for name, table in read.items()},
        settled=SETTLED,
        recipe=recipe,
        figure=Path(png).name,
        record=current_record(),
    )
    with atomic(page) as partial:
        partial.write_text(text, encoding="utf-8")


def _lines(name: str, table: pd.DataFrame):
    for layer, rows in table.groupby("layer"):
        yield Line(
            comparison=name,
            layer=int(layer),
            alive=len(rows),
            surviving=float((rows["match"] >= SETTLED).mean()),
            match=float(rows["match"].median()),
            chance=float(rows["chance"].iloc[0]),
            change=float(rows["change"].median()),
            silent=float((rows["density_after"] == 0).mean()),
        )


def _most_changed(table: pd.DataFrame) -> list[dict]:
    """Of the latents that fire on one token in a thousand or more, those whose activation changes most.

    Many may fall silent, which is a change of 1: those that fired most come first.
    """
    often = table[(table["density_before"] >= 1e-3) & (table["change"] >= LEAST)]
    order = often.sort_values(["change", "density_before"], ascending=False, kind="stable")
    return order.head(MOVED).to_dict("records")
