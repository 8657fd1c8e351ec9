"""Write the explorer: its page, and what the page loads."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from pyarrow import parquet

from sae_atlas.base_models.load import is_model
from sae_atlas.corpus import open_corpus
from sae_atlas.features.decoder import Decoder
from sae_atlas.io.files import atomic
from sae_atlas.io.log import progress
from sae_atlas.io.provenance import current_record
from sae_atlas.metrics.directions import neighbours
from sae_atlas.pages.explorer.pack import write_pack
from sae_atlas.pages.explorer.tables import SHOWN, Contexts, Layer, blocks, columns
from sae_atlas.pages.explorer.text import Text
from sae_atlas.pages.html import fill
from sae_atlas.saes.checkpoint import load_checkpoint

NEIGHBOURS = 6
SCRIPTS = ("data.js", "search.js", "list.js", "formed.js", "latent.js", "explorer.js")
TABLES = ("features", "contexts", "scores", "names", "evolution", "matches")


@dataclass(frozen=True)
class Source:
    """The files of one layer of a recipe. tables: name -> path; all but features and contexts may be missing."""

    recipe: str
    layer: int
    tables: dict[str, str | Path]
    checkpoint: str | Path


def write_explorer(
    page: str | Path,
    corpus: str | Path,
    base_model: str | Path,
    checkpoints: Sequence[str | Path],
    cells: Sequence[tuple[str, int]],
    base: str,
    site: str,
    row_texts: dict | None = None,
    **tables: Sequence[str | Path],
) -> None:
    """Write the explorer into the folder of `page`, its index.html.

    cells: recipe and layer of each of `checkpoints` and of the files of every table. tables: those of TABLES, of which all but
    features and contexts may be left out. base, site: names on the page. row_texts: of saved activations where the text of
    their rows is, if they have any (texts.labels).
    """
    opened, record = open_corpus(corpus), current_record()
    decode = Decoder.of_atlas(base_model, opened.context, row_texts)
    identity, folder = record["identity"] if record else None, Path(page).parent
    sources = [
        Source(recipe, layer, {name: files[at] for name, files in tables.items()}, checkpoints[at])
        for at, (recipe, layer) in enumerate(cells)
    ]
    text = _text(opened, sources)
    ids, topics = text.ids(), _topics(sources)
    recipes = list(dict.fromkeys(source.recipe for source in sources))
    with atomic(folder) as partial, progress(len(sources), "layers", "explorer") as bar:
        _write_page(partial, base, identity)
        data = partial / "data"
        atlas = {"base": base, "site": site, "context": opened.context, "text_bytes": text.tokens.itemsize}
        layers = {recipe: [source.layer for source in sources if source.recipe == recipe] for recipe in recipes}
        atlas |= {"recipes": [{"name": recipe, "layers": layers[recipe]} for recipe in recipes]}
        atlas |= {"bands": list(SHOWN), "start": opened.attributes["document_start"], "identity": identity}
        if not is_model(base_model):
            atlas |= {"unit": "rows"}
        write_pack(data, "atlas", atlas)
        write_pack(data, "text", text.bytes())
        write_pack(data, "tokens", dict(zip(ids.tolist(), decode(ids), strict=True)))
        for source in sources:
            layer = _read(source)
            contexts = Contexts(layer.contexts, layer.features["max_activation"].to_numpy(), text, topics)
            # Recipes are numbered, as their names may not fit file names.
            key = f"{recipes.index(source.recipe)}/layer{source.layer:02d}"
            write_pack(data, key, columns(layer, contexts))
            for number, block in enumerate(blocks(layer, contexts)):
                write_pack(data, f"{key}_{number}", block)
            bar.update(1)


def _write_page(folder: Path, base: str, identity: str | None) -> None:
    page = files("sae_atlas.pages.explorer") / "page"
    folder.mkdir()
    html = fill("explorer.html.jinja", base=base, scripts=SCRIPTS, identity=identity)
    (folder / "index.html").write_text(html, encoding="utf-8")
    for name in ("style.css", *SCRIPTS):
        (folder / name).write_text((page / name).read_text(encoding="utf-8"), encoding="utf-8")


def _table(source: Source, name: str, columns: list[str] | None = None) -> pa.Table | None:
    """A table of the layer, or some columns of it; None if it was not made."""
    if name not in source.tables:
        return None
    return parquet.read_table(source.tables[name], columns=columns)


def _read(source: Source) -> Layer:
    decoder = load_checkpoint(source.checkpoint)["model_state"]["decoder.weight"]
    tables = {name: _table(source, name) for name in TABLES}
    nearest = (each.numpy() for each in neighbours(decoder.T.contiguous(), NEIGHBOURS))
    return Layer(**tables, neighbours=tuple(nearest))


def _text(corpus, sources: list[Source]) -> Text:
    """The text of all contexts that are shown of latents of any layer."""
    used = set()
    for source in sources:
        table = _table(source, "contexts", ["context", "band", "rank"])
        for band, limit in SHOWN.items():
            chosen = compute.and_(compute.equal(table["band"], band), compute.less(table["rank"], limit))
            used.update(compute.unique(table["context"].filter(chosen)).to_pylist())
        if (matches := _table(source, "matches", ["context"])) is not None:
            used.update(compute.unique(matches["context"]).to_pylist())
    rows = np.array(sorted(used), np.int64)
    return Text(corpus.tokens[: int(rows.max(initial=-1)) + 1], rows)


def _topics(sources: list[Source]) -> list[str]:
    """Topics of any context or latent, in the order of their names."""
    topics = set()
    for source, name in itertools.product(sources, ("contexts", "scores")):
        table = _table(source, name, ["topic"])
        topics.update(compute.unique(table["topic"]).to_pylist() if table is not None else ())
    return sorted(topics - {None})
