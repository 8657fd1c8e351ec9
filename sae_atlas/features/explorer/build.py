"""Write the explorer: its page, and what the page loads."""

import itertools
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from pyarrow import parquet

from sae_atlas.corpus import open_corpus
from sae_atlas.errors import REMAKE, AtlasError
from sae_atlas.features.decoder import Decoder
from sae_atlas.features.explorer.neighbours import neighbours
from sae_atlas.features.explorer.pack import write_pack
from sae_atlas.features.explorer.tables import SHOWN, Contexts, Layer, blocks, columns
from sae_atlas.features.explorer.text import Text
from sae_atlas.files import atomic
from sae_atlas.log import progress
from sae_atlas.saes.checkpoint import load_checkpoint
from sae_atlas.tables import identities

NEIGHBOURS = 6
SCRIPTS = ("data.js", "search.js", "list.js", "formed.js", "latent.js", "explorer.js")
TABLES = ("features", "contexts", "scores", "names", "evolution", "matches")


@dataclass(frozen=True)
class Source:
    """The files of one layer of a recipe: table -> path (all but features and contexts may be missing), and the SAE."""

    recipe: str
    layer: int
    tables: dict[str, str | Path]
    checkpoint: str | Path

    def expects(self, expects: dict[str, str], what: str) -> str:
        """Identity of a table or of the checkpoint: `topk-32 layer07 features`."""
        return expects[f"{self.recipe} layer{self.layer:02d} {what}"]


def write_explorer(
    folder: str | Path,
    corpus: str | Path,
    decode: Decoder,
    sources: list[Source],
    base: str,
    site: str,
    record: dict,
    expects: dict[str, str],
) -> None:
    """Write the explorer into `folder`: open its index.html.

    base, site: as the page calls them. expects: identities of corpus and of what Source.expects names.

    Raises AtlasError if one of the files is of another run.
    """
    opened = open_corpus(corpus, expects["corpus"])
    text = _text(opened, sources, expects)
    ids, topics = text.ids(), _topics(sources, expects)
    recipes = list(dict.fromkeys(source.recipe for source in sources))
    with atomic(folder) as partial, progress(len(sources), "layers", "explorer") as bar:
        _write_page(partial, base, record["identity"])
        data = partial / "data"
        atlas = {"base": base, "site": site, "context": opened.context, "text_bytes": text.tokens.itemsize}
        layers = {recipe: [source.layer for source in sources if source.recipe == recipe] for recipe in recipes}
        atlas |= {"recipes": [{"name": recipe, "layers": layers[recipe]} for recipe in recipes]}
        atlas |= {"bands": list(SHOWN), "start": opened.attributes["document_start"], "identity": record["identity"]}
        write_pack(data, "atlas", atlas)
        write_pack(data, "text", text.bytes())
        write_pack(data, "tokens", dict(zip(ids.tolist(), decode(ids), strict=True)))
        for source in sources:
            layer = _read(source, expects)
            contexts = Contexts(layer.contexts, layer.features["max_activation"].to_numpy(), text, topics)
            # Recipes go by number: their names need not be fit for a file's.
            key = f"{recipes.index(source.recipe)}/layer{source.layer:02d}"
            write_pack(data, key, columns(layer, contexts))
            for number, block in enumerate(blocks(layer, contexts)):
                write_pack(data, f"{key}_{number}", block)
            bar.update(1)


def _write_page(folder: Path, base: str, identity: str) -> None:
    page = files("sae_atlas.features.explorer") / "page"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    folder.mkdir()
    template = environment.from_string((page / "index.html.jinja").read_text())
    (folder / "index.html").write_text(template.render(base=base, scripts=SCRIPTS, identity=identity))
    for name in ("style.css", *SCRIPTS):
        (folder / name).write_text((page / name).read_text())


def _table(source: Source, name: str, expects: dict, columns: list[str] | None = None) -> pa.Table | None:
    """A table of the layer, or some columns of it; None if it was not made."""
    if name not in source.tables:
        return None
    path, expected = source.tables[name], [source.expects(expects, name)]
    found = identities(path)
    if found != expected:
        raise AtlasError(f"{path}: made by other settings, code or inputs (identities {found}). {REMAKE}")
    return parquet.read_table(path, columns=columns)


def _read(source: Source, expects: dict) -> Layer:
    decoder = load_checkpoint(source.checkpoint, source.expects(expects, "checkpoint"))["model_state"]["decoder.weight"]
    tables = {name: _table(source, name, expects) for name in TABLES}
    return Layer(**tables, neighbours=neighbours(decoder.T.contiguous(), NEIGHBOURS))


def _text(corpus, sources: list[Source], expects: dict) -> Text:
    """Contexts that latents of any layer are shown in."""
    used = set()
    for source in sources:
        table = _table(source, "contexts", expects, ["context", "band", "rank"])
        for band, shown in SHOWN.items():
            chosen = compute.and_(compute.equal(table["band"], band), compute.less(table["rank"], shown))
            used.update(compute.unique(table["context"].filter(chosen)).to_pylist())
        if (matches := _table(source, "matches", expects, ["context"])) is not None:
            used.update(compute.unique(matches["context"]).to_pylist())
    rows = np.array(sorted(used), np.int64)
    return Text(corpus.tokens[: int(rows.max(initial=-1)) + 1], rows)


def _topics(sources: list[Source], expects: dict) -> list[str]:
    """Topics of any context or latent, in the order of their names."""
    found = set()
    for source, name in itertools.product(sources, ("contexts", "scores")):
        table = _table(source, name, expects, ["topic"])
        found.update(compute.unique(table["topic"]).to_pylist() if table is not None else ())
    return sorted(found - {None})
