"""The corpus of saved activations: row numbers where a text has token ids, neighbouring rows as contexts.

On disk as any corpus (corpus.py), so that windows, held-out contexts and what reads them are the same. A context is a document
of its own; nothing is masked; no id begins a document. What the rows are called (texts/labels.py) changes no number.
"""

from pathlib import Path

import numpy as np
import zarr

from sae_atlas.corpus import TOKENS_PER_CHUNK, create_array
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic, read_json
from sae_atlas.io.provenance import current_record


def number_rows(
    base_model: str | Path,
    corpus: str | Path,
    text: dict,
    context: int,
    train_tokens: int,
    held_out_tokens: int,
    seed: int,
) -> None:
    """Write the `corpus` of the rows that the provenance `base_model` counts, in contexts of `context` neighbours.

    The order of the contexts is seeded; the first of them, of at least `held_out_tokens` rows, are held out, the next, of at
    least `train_tokens`, are trained on. text: what is kept of the config section `corpus`. Raises AtlasError if there are too
    few rows, or rows that fill no context.
    """
    rows = read_json(base_model)["rows"]
    held_out, train = contexts_of(rows, context, held_out_tokens, train_tokens)
    order = np.random.default_rng(seed).permutation(rows // context)[: held_out + train]
    shape, size = (len(order), context), min(len(order), max(1, TOKENS_PER_CHUNK // context))
    with atomic(corpus) as partial:
        group = zarr.create_group(partial, zarr_format=3)
        ids = order[:, None] * context + np.arange(context)
        arrays = {
            "tokens": ids.astype(np.min_scalar_type(rows - 1)),
            "mask": np.ones(shape, bool),
            "document": order.astype(np.int64),
            "topic": np.full(rows // context, -1, np.int32),
        }
        for name, values in arrays.items():
            chunk = size if values.ndim > 1 else len(values)
            create_array(group, name, values.shape, chunk, values.dtype)[:] = values
        group.attrs.update(
            {
                "held_out_contexts": held_out,
                "held_out_tokens": held_out * context,
                "train_tokens": train * context,
                "document_start": None,
                "topics": [],
                "seed": seed,
                "text": text,
                "record": current_record(),
            }
        )


def contexts_of(rows: int, context: int, held_out_tokens: int, train_tokens: int) -> tuple[int, int]:
    """(held-out contexts, train contexts). Raises AtlasError if `rows` rows are too few, or fill no whole contexts."""
    if rows % context:
        raise AtlasError(
            f"corpus.context: {rows} rows are no whole number of contexts of {context} neighbours; give how many belong "
            "together"
        )
    held_out, train = (-(-wanted // context) for wanted in (held_out_tokens, train_tokens))
    if (held_out + train) * context > rows:
        raise AtlasError(
            f"corpus.tokens: {train * context} rows and {held_out * context} held-out ones (corpus.held_out_tokens) are more "
            f"than the {rows} that there are; lower one of them"
        )
    return held_out, train
