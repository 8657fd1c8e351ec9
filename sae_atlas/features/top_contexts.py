"""What each latent of a layer fires on, in one pass over the text for all of them, and how often and how strongly it does."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae_atlas.activations.outliers import median_norm
from sae_atlas.base_models.load import is_model, load, load_tokenizer
from sae_atlas.features.bands import choose
from sae_atlas.features.documents import Pooled
from sae_atlas.features.logit_lens import lens_columns, no_lens
from sae_atlas.features.text import Text, read_text
from sae_atlas.features.top_activations import TopActivations, edges, histogram
from sae_atlas.io.devices import resolve
from sae_atlas.io.log import progress
from sae_atlas.io.tables import write_table
from sae_atlas.metrics.active import Active
from sae_atlas.saes.sae import Sae

TOKENS_AT_ONCE = 512  # tokens encoded at once


@dataclass(frozen=True)
class Batch:
    """Rows of whole contexts: position in the whole text, document, whether it counts, activation; active latents as CSR."""

    text_position: np.ndarray
    document: np.ndarray
    counts: np.ndarray
    x: np.ndarray
    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray


def top_contexts(
    corpus: str | Path,
    activations: str | Path,
    base_model: str | Path,
    checkpoint: str | Path,
    contexts_table: str | Path,
    features_table: str | Path,
    documents_table: str | Path,
    raw_table: str | Path,
    split: str,
    layer: int,
    site: str,
    model_dtype: str,
    contexts: int,
    window: int,
    outlier_norm: float,
    device: str = "auto",
) -> None:
    """Write the contexts of every alive latent of `layer`, a row about every latent, and what features.documents pools.

    contexts: highest peaks kept per latent, of distinct documents; window: most tokens kept around a peak. Tokens whose
    norm is above `outlier_norm` medians count as little as masked ones. corpus, activations, split: as
    features.text.read_text takes them. Of saved activations there is no model, and no token is promoted.
    """
    model = load(base_model, model_dtype, device)[0] if is_model(base_model) else None
    text = read_text(corpus, activations, layer, split)
    sae = Sae.load(checkpoint).to(model.device if model else resolve(device))
    top_activations, pooled, seen = TopActivations(sae.d_sae, contexts, window), Pooled(sae.d_sae, sae.d_in), 0
    ids = text.tokens.ravel()
    with torch.inference_mode(), progress(int(text.mask.sum()), "tokens", f"layer {layer}") as bar:
        for batch in batches(text, sae, outlier_norm):
            top_activations.add(batch.starts, batch.columns, batch.values, batch.text_position, batch.document)
            of_text = ids[batch.text_position], batch.text_position % text.context, batch.document, batch.counts
            pooled.add(batch.starts, batch.columns, batch.values, batch.x, *of_text)
            seen += int(batch.counts.sum())
            bar.update(len(batch.text_position))
        lens = lens_columns(model, load_tokenizer(base_model), sae.W_dec, site) if model else no_lens(sae.d_sae)
    about = features_of(top_activations, sae.W_dec.norm(dim=1).double().cpu().numpy(), seen)
    for name, column in lens.items():
        about = about.append_column(name, column)
    write_table(contexts_table, contexts_of(text, top_activations))
    write_table(features_table, about)
    write_table(documents_table, pooled.table())
    write_table(raw_table, pooled.raw_table())


def batches(text: Text, sae: Sae, outlier_norm: float) -> Iterator[Batch]:
    """The latents of all unmasked tokens; of outliers, whose norm is above `outlier_norm` medians, they are 0."""
    counted = text.norms <= outlier_norm * median_norm(text.norms)
    done = 0
    for contexts, x in text.batches():
        rows = slice(contexts.start, contexts.stop)
        mask = text.mask[rows]
        text_position = contexts.start * text.context + np.flatnonzero(mask)
        counts = counted[done : done + len(x)]
        done += len(x)
        parts = [
            _entries(sae, x[first : first + TOKENS_AT_ONCE], counts[first : first + TOKENS_AT_ONCE])
            for first in range(0, len(x), TOKENS_AT_ONCE)
        ]
        lengths, columns, values = (np.concatenate(each) for each in zip(*parts, strict=True))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        yield Batch(text_position, text.documents[rows][mask], counts, x.numpy(), starts, columns, values)


def _entries(sae: Sae, x: Tensor, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of active entries of each row, and all their latents (ascending within a row) and values."""
    latents = sae.encode(x.to(sae.b_dec.device))
    latents[torch.from_numpy(~counts).to(latents.device)] = 0
    active = Active.of(latents).cpu()
    return active.per_token().numpy(), active.latent.numpy(), active.value.numpy()


def contexts_of(text: Text, top_activations: TopActivations) -> pa.Table:
    """A row per context to show (features.bands).

    context: row of the corpus; start: position in it of the window's first token; peak: index of the peak in the window.
    """
    rows = choose(top_activations, text.documents.ravel())
    value, position, start, length, shape = (
        rows.of(top_activations, name) for name in ("value", "position", "start", "length", "shape")
    )
    document = text.documents.ravel()[position]
    inside = np.arange(top_activations.window) < length[:, None]
    offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
    tokens = text.tokens.ravel()[(start[:, None] + np.arange(top_activations.window))[inside]]
    return pa.table(
        {
            "latent": rows.latent,
            "band": pa.array(rows.band, pa.string()),  # typed where all latents are dead
            "rank": rows.rank,
            "activation": value,
            "document": document,
            "topic": pa.array(text.topics[document], pa.string()),
            "tokens": pa.ListArray.from_arrays(offsets, tokens),
            "activations": pa.ListArray.from_arrays(offsets, shape[inside]),
            "peak": (position - start).astype(np.int16),
            "context": (text.first + position // text.context).astype(np.int32),
            "start": (start % text.context).astype(np.int32),
        }
    )


def features_of(top_activations: TopActivations, decoder_norms: np.ndarray, seen: int) -> pa.Table:
    """A row per latent. importance: E[(f ||W_dec||)^2] over the `seen` tokens, in squared activation units (metrics).

    histogram: of its positive activations; the edges of its 24 bins are in the metadata of the field.
    """
    largest = float(top_activations.largest.max())
    bins = histogram(top_activations.counts, largest or 1.0)
    columns = {
        "latent": np.arange(len(bins), dtype=np.int32),
        "alive": top_activations.fired > 0,
        "tokens_seen": np.full(len(bins), seen),
        "density": top_activations.fired / seen,
        "importance": top_activations.squares * decoder_norms**2 / seen,
        "max_activation": top_activations.largest,
    }
    field = pa.field("histogram", pa.list_(pa.int64()), metadata={"edges": json.dumps(edges(largest or 1.0))})
    return pa.table(columns).append_column(field, pa.array(list(bins), field.type))
