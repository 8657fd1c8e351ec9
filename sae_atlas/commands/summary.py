"""The last lines of a run: what the atlas holds, how good it is, where to look."""

import html
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.sizes import grid_words
from sae_atlas.io.tables import read_table
from sae_atlas.lifecycle.survival.configs import STAGES
from sae_atlas.metrics.labels import NO_LOSSES
from sae_atlas.publish.cards.names import parse_sae_name

if TYPE_CHECKING:
    import pandas as pd


def summarise(folder: str | Path) -> str:
    """A few lines for the terminal from `results/metrics.parquet` under `folder`; of the run of a base model through its
    fine-tuning (workflow/three_stages.smk) those of each atlas, and the pages that compare them.

    Raises AtlasError if there is no finished atlas.
    """
    folder = Path(os.path.normpath(folder))
    if pages := sorted((folder / "results" / "survival").glob("*/index.html")):
        atlases = [stage for stage in STAGES if (folder / stage).is_dir()]
        lines = [f"\n{stage}:{_summarise(folder / stage)}" for stage in atlases]
        return "\n".join([*lines, "", "What survives fine-tuning:", *(f"  page             {page}" for page in pages)])
    return _summarise(folder)


def _summarise(folder: Path) -> str:
    table = folder / "results" / "metrics.parquet"
    if not table.is_file():
        raise AtlasError(f"{table}: not there; the atlas is not finished. Run `make run` (or `snakemake`) first.")
    metrics = read_table(table)
    final = metrics[metrics.snapshot == "final"]
    checkpoints = len(metrics[["recipe", "layer", "snapshot"]].drop_duplicates())
    linked = _linked(folder / "results" / "index.html")
    kind = "transcoders" if any(parse_sae_name(card.parent.name).target for card in _cards(folder, linked)) else "SAEs"
    lines = ["", f"{checkpoints} {kind}: {grid_words(*metrics[['recipe', 'layer', 'snapshot']].nunique())}"]
    for recipe, rows in final.groupby("recipe", sort=False):
        median = rows.groupby("metric").value.median()
        losses = f"CE recovered {median['ce_recovered']:.3f}" if "ce_recovered" in median else NO_LOSSES
        truth = f", MCC {median['mcc']:.3f}, firing F1 {median['f1']:.3f}" if "mcc" in median else ""
        quality = f"{losses}, FVU {median['fvu']:.3f}, L0 {median['l0']:.1f}{truth}"
        lines.append(f"  {recipe}: {quality} (median of the layers, final snapshot)")
    return "\n".join(
        [*lines, "Where to look:", *(f"  {what:<16} {path}" for what, path in _outputs(folder, final, linked))]
    )


def _outputs(folder: Path, final: "pd.DataFrame", linked: set[Path]):
    """Of cards, releases and the explorer only those that the page links to: others may lie there, of earlier configs."""
    yield "page", folder / "results" / "index.html"
    if (explorer := folder / "results" / "explorer" / "index.html") in linked:
        yield "explorer", explorer
    yield "table", folder / "results" / "metrics.parquet"
    for recipe in final.recipe.unique():
        yield "heatmap", folder / "results" / "figures" / recipe / "2_metrics_heatmap.png"
    middle = sorted(final.layer.unique())[(final.layer.nunique() - 1) // 2]
    for card in _cards(folder, linked):
        if parse_sae_name(card.parent.name).layer == middle:
            yield "model card", card
    releases = sorted((folder / "models" / "releases").glob("*/README.md"))
    yield from (("release", page) for page in releases if page in linked)


def _cards(folder: Path, linked: set[Path]) -> list[Path]:
    cards = sorted((folder / "models" / "sae").glob("*/model_card.md"))
    return [card for card in cards if folder / "results" / "cards" / f"{card.parent.name}.html" in linked]


def _linked(page: Path) -> set[Path]:
    """Files that a page of the atlas links to."""
    links = re.findall(r'href="([^"#]+)"', page.read_text(encoding="utf-8")) if page.is_file() else []
    return {Path(os.path.normpath(page.parent / unquote(html.unescape(link)))) for link in links}
