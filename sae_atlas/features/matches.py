"""What the best matches of a layer's latents fire on, in its earlier snapshots and in the neighbouring layers."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import torch

from sae_atlas.devices import resolve
from sae_atlas.features.bands import TOP
from sae_atlas.features.kept import Kept
from sae_atlas.features.text import Text
from sae_atlas.features.top_contexts import batches, contexts_of
from sae_atlas.log import progress
from sae_atlas.saes.sae import Sae
from sae_atlas.tables import read_table, write_table


def contexts_of_matches(
    evolution: str | Path,
    earlier: dict[str, str | Path],
    neighbours: dict[int, str | Path],
    text_of: Callable[[int], Text],
    output: str | Path,
    layer: int,
    contexts: int,
    window: int,
    outlier_norm: float,
    record: dict,
    expects: dict,
    device: str = "auto",
) -> None:
    """Write the highest `contexts` of every latent that is some latent's match: rows of top_contexts, with axis and place.

    evolution: the table of matches (features.evolution) of the same `earlier` and `neighbours`; text_of: layer -> the text
    with its activations. Dead matches have none. Raises AtlasError for inputs of another run.
    """
    on, text_of = resolve(device), cache(text_of)  # the earlier snapshots all read the same
    places = [("snapshot", name, layer, path, expects[name]) for name, path in earlier.items()]
    places += [("layer", str(other), other, path, expects[f"layer{other:02d}"]) for other, path in neighbours.items()]
    kept = contexts, window
    parts = [_at("", "", contexts_of(text_of(layer), Kept(0, *kept)))]  # where there is no place
    matches = read_table(evolution, [expects["evolution"]]) if places else None
    with progress(len(places), "places", f"layer {layer}") as bar:
        for axis, place, of_layer, path, expected in places:
            wanted = matches.match[(matches.axis == axis) & (matches.place == place)].unique()
            sae = Sae.load(path, expected).to(on)
            parts.append(_at(axis, place, _highest(text_of(of_layer), sae, wanted, *kept, outlier_norm)))
            bar.update()
    write_table(output, pa.concat_tables(parts), [record["identity"]])


def _at(axis: str, place: str, contexts: pa.Table) -> pa.Table:
    named = {
        "axis": pa.array([axis] * len(contexts), pa.string()),
        "place": pa.array([place] * len(contexts), pa.string()),
    }
    return pa.table({**named, **{name: contexts[name] for name in contexts.column_names}})


def _highest(text: Text, sae: Sae, latents: np.ndarray, contexts: int, window: int, outlier_norm: float) -> pa.Table:
    """The highest contexts of these latents."""
    kept = Kept(sae.d_sae, contexts, window)
    with torch.inference_mode():
        for batch in batches(text, sae, outlier_norm):
            kept.add(batch.starts, batch.columns, batch.values, batch.place, batch.document)
    found = contexts_of(text, kept)
    among = compute.is_in(found["latent"], pa.array(latents, found["latent"].type))
    return found.filter(compute.and_(among, compute.equal(found["band"], TOP)))
