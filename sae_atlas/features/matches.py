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
    target_device, files = resolve(device), dict(zip([layer, *layers], activations, strict=True))

    @cache  # the earlier snapshots all read the same
    def text_of(other: int) -> Text:
        return read_text(corpus, files[other], other, split)

    references = [("snapshot", name, layer, path) for name, path in zip(snapshots, earlier, strict=True)]
    references += [("layer", str(other), other, path) for other, path in zip(layers, neighbours, strict=True)]
    no_rows = contexts_of(text_of(layer), TopActivations(0, contexts, window))
    parts = [_labelled("", "", no_rows)]
    matches = read_table(evolution, may_be_empty=True) if references else None
    with progress(len(references), "places", f"layer {layer}") as bar:
        for axis, label, of_layer, path in references:
            wanted = matches.match[(matches.axis == axis) & (matches.place == label)].unique()
            sae = Sae.load(path).to(target_device)
            highest = _highest(text_of(of_layer), sae, wanted, contexts, window, outlier_norm)
            parts.append(_labelled(axis, label, highest))
            bar.update()
    write_table(table, pa.concat_tables(parts))


def _labelled(axis: str, place: str, contexts: pa.Table) -> pa.Table:
    """The contexts with the columns `axis` and `place` before the others."""
    table = contexts.add_column(0, "place", pa.repeat(place, len(contexts)))
    return table.add_column(0, "axis", pa.repeat(axis, len(contexts)))


def _highest(text: Text, sae: Sae, latents: np.ndarray, contexts: int, window: int, outlier_norm: float) -> pa.Table:
    """The contexts with the highest activations of these latents."""
    top_activations = TopActivations(sae.d_sae, contexts, window)
    with torch.inference_mode():
        for batch in batches(text, sae, outlier_norm):
            top_activations.add(batch.starts, batch.columns, batch.values, batch.text_position, batch.document)
    contexts_table = contexts_of(text, top_activations)
    among = compute.is_in(contexts_table["latent"], pa.array(latents, contexts_table["latent"].type))
    return contexts_table.filter(compute.and_(among, compute.equal(contexts_table["band"], TOP)))
