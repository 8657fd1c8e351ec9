"""What the best matches of a layer's latents fire on, in its earlier snapshots and in the neighbouring layers."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import torch

from sae_atlas.features.bands import TOP
from sae_atlas.features.text import Text, read_text
from sae_atlas.features.top_activations import TopActivations
from sae_atlas.features.top_contexts import batches, contexts_of
from sae_atlas.io.devices import resolve
from sae_atlas.io.log import progress
from sae_atlas.io.tables import read_table, write_table
from sae_atlas.saes.sae import Sae


def contexts_of_matches(
    corpus: str | Path,
    activations: Sequence[str | Path],
    evolution: str | Path,
    table: str | Path,
    split: str,
    snapshots: Sequence[str],
    layers: Sequence[int],
    layer: int,
    contexts: int,
    window: int,
    outlier_norm: float,
    earlier: Sequence[str | Path] = (),
    neighbours: Sequence[str | Path] = (),
    device: str = "auto",
) -> None:
    """Write the highest `contexts` of every latent that is some latent's match: rows of top_contexts, with axis and place.

    evolution: the table of matches (features.evolution) of the same `earlier` checkpoints of `snapshots` and `neighbours` of
    `layers`. activations: of the layer and of its neighbours, in this order, read as features.text.read_text does. Dead
    matches have no contexts.
    """
    on, files = resolve(device), dict(zip([layer, *layers], activations, strict=True))

    @cache  # the earlier snapshots all read the same
    def text_of(other: int) -> Text:
        return read_text(corpus, files[other], other, split)

    places = [("snapshot", name, layer, path) for name, path in zip(snapshots, earlier, strict=True)]
    places += [("layer", str(other), other, path) for other, path in zip(layers, neighbours, strict=True)]
    kept = contexts, window
    parts = [_at("", "", contexts_of(text_of(layer), TopActivations(0, *kept)))]  # where there is no place
    matches = read_table(evolution, may_be_empty=True) if places else None
    with progress(len(places), "places", f"layer {layer}") as bar:
        for axis, place, of_layer, path in places:
            wanted = matches.match[(matches.axis == axis) & (matches.place == place)].unique()
            sae = Sae.load(path).to(on)
            parts.append(_at(axis, place, _highest(text_of(of_layer), sae, wanted, *kept, outlier_norm)))
            bar.update()
    write_table(table, pa.concat_tables(parts))


def _at(axis: str, place: str, contexts: pa.Table) -> pa.Table:
    named = {
        "axis": pa.array([axis] * len(contexts), pa.string()),
        "place": pa.array([place] * len(contexts), pa.string()),
    }
    return pa.table({**named, **{name: contexts[name] for name in contexts.column_names}})


def _highest(text: Text, sae: Sae, latents: np.ndarray, contexts: int, window: int, outlier_norm: float) -> pa.Table:
    """The highest contexts of these latents."""
    kept = TopActivations(sae.d_sae, contexts, window)
    with torch.inference_mode():
        for batch in batches(text, sae, outlier_norm):
            kept.add(batch.starts, batch.columns, batch.values, batch.place, batch.document)
    found = contexts_of(text, kept)
    among = compute.is_in(found["latent"], pa.array(latents, found["latent"].type))
    return found.filter(compute.and_(among, compute.equal(found["band"], TOP)))
