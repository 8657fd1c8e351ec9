"""The atlas on one page: table, heatmaps that link to the cards, figures, and how it was made."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from sae_atlas.io.files import atomic, read_json
from sae_atlas.io.provenance import current_record
from sae_atlas.io.tables import read_table
from sae_atlas.pages import table
from sae_atlas.pages.heat import final_lines, snapshot_lines
from sae_atlas.pages.html import fill, rendered
from sae_atlas.plan.costs import read_costs
from sae_atlas.publish.cards.facts import as_yaml, read_origin, without_folders
from sae_atlas.saes.architectures import ARCHITECTURES, sparsity_words


def write_page(
    metrics: str | Path,
    base_model: str | Path,
    corpus: str | Path,
    cards: Sequence[str | Path],
    figures: Sequence[str | Path],
    page: str | Path,
    card_pages: str | Path,
    jobs: dict[str, list[str]],
    config: dict,
    colour_map: str,
    explored: list[int],
    releases: Sequence[str | Path] = (),
) -> None:
    """Write `page` and, into the folder `card_pages` beside it, every card as HTML. All links are relative.

    metrics: the table of all recipes. cards: their config.json. figures: PNGs, each in a folder named after its recipe.
    releases: READMEs. jobs: those of plan.jobs, whose time and memory are read from `benchmarks` beside the page. explored:
    layers whose latents the explorer beside the page shows.
    """
    origin = read_origin(base_model, corpus, config["base_model"]["name"], config["corpus"]["name"])
    measured, record = read_table(metrics), current_record()
    saes = list(map(_read_sae, cards))
    where = Path(page).parent
    _write_cards(saes, Path(card_pages), page, explored)
    columns = table.columns(measured)
    text = fill(
        "index.html.jinja",
        origin=origin,
        config=config,
        recipes=[_recipe(name, measured, saes, figures, colour_map, where) for name in config["recipes"]],
        columns=columns,
        rows=table.rows(measured, columns),
        snapshots=list(dict.fromkeys(map(str, measured.sort_values("tokens")["snapshot"]))),
        layers=sorted(set(measured["layer"].tolist())),
        links={(sae.recipe, sae.layer): _relative(Path(card_pages) / f"{sae.name}.html", where) for sae in saes},
        saes=saes,
        explored=explored,
        releases={Path(path).parent.name: _relative(path, where) for path in releases},
        held_out=measured.groupby("metric")["held_out_tokens"].max().to_dict(),
        costs=read_costs(where / "benchmarks", jobs),
        config_text=as_yaml(without_folders(config)),
        versions=_versions(
            [origin.model["record"], origin.corpus["record"], *(each for sae in saes for each in sae.records)]
        ),
        record=record,
    )
    with atomic(page) as partial:
        partial.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Published:
    """One card and what its config.json says of the SAE."""

    card: Path
    name: str
    recipe: str
    layer: int
    sha256: str  # of model.pt
    training: str  # identity
    records: list[dict]


def _read_sae(file: str | Path) -> Published:
    """Read the config.json of a published SAE."""
    config, folder = read_json(file), Path(file).parent
    records = config["records"]
    return Published(
        card=folder / "model_card.md",
        name=folder.name,
        recipe=config["recipe"]["name"],
        layer=config["layer"],
        sha256=config["files_sha256"]["model.pt"],
        training=records["training"]["identity"],
        records=list(records.values()),
    )


def _write_cards(saes: list[Published], folder: Path, page: str | Path, explored: list[int]) -> None:
    """Write a page per card; pages of SAEs that no longer exist are removed."""
    with atomic(folder) as partial:
        partial.mkdir()
        for sae in saes:
            text = fill(
                "card.html.jinja",
                name=sae.name,
                body=rendered(sae.card.read_text(encoding="utf-8")),
                page=_relative(page, folder),
                files=_relative(sae.card.parent, folder),
                explorer=f"#/{quote(sae.recipe, safe='')}/{sae.layer}" if sae.layer in explored else None,
            )
            (partial / f"{sae.name}.html").write_text(text, encoding="utf-8")


def _recipe(name: str, measured: pd.DataFrame, saes: list, figures: Sequence, colour_map: str, where: Path) -> dict:
    """Facts, heatmaps and figures of one recipe."""
    rows = measured[measured["recipe"] == name]
    values = next(sae for sae in saes if sae.recipe == name).records[0]["settings"]["recipe"]
    return {
        "name": name,
        "architecture": ARCHITECTURES[values["architecture"]].label,
        "expansion": values["expansion"],
        "sparsity": sparsity_words(values),
        "medians": rows[rows["snapshot"] == "final"].groupby("metric")["value"].median().to_dict(),
        "layers": sorted(set(rows["layer"].tolist())),
        "final": final_lines(rows, colour_map),
        "over_snapshots": snapshot_lines(rows, colour_map),
        "figures": [_figure(path, where) for path in figures if Path(path).parent.name == name],
    }


def _figure(path: str | Path, where: Path) -> dict:
    """`2_metrics_heatmap.png` is the figure `metrics heatmap`."""
    name = Path(path).stem.partition("_")[2].replace("_", " ")
    return {"name": name, "png": _relative(path, where), "svg": _relative(Path(path).with_suffix(".svg"), where)}


def _versions(records: list[dict]) -> dict[str, str]:
    """Package -> versions that made the outputs: more than one where a run continued in another environment."""
    versions: dict[str, set] = {}
    for record in records:
        for package, version in record["versions"].items():
            versions.setdefault(package, set()).add(version)
    listed = {package: ", ".join(sorted(each)) for package, each in versions.items()}
    return {"Python (this page)": platform.python_version()} | listed


def _relative(path: str | Path, where: str | Path) -> str:
    return Path(os.path.relpath(path, where)).as_posix()
