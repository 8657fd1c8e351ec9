"""Held-out rows of saved activations, on disk as metrics/held_out.py has them, without what only a model can give: losses."""

from pathlib import Path

import numpy as np
import torch
import zarr

from sae_atlas.corpus import open_corpus
from sae_atlas.io.files import atomic
from sae_atlas.io.log import progress
from sae_atlas.io.provenance import current_record
from sae_atlas.metrics.held_out import create_array, write_mean, write_rows
from sae_atlas.own_arrays.files import SITE, find_layers
from sae_atlas.own_arrays.read import InOrder, open_array

ROWS_PER_CHUNK = 4096


def save_held_out_rows(
    base_model: str | Path, corpus: str | Path, clean: str | Path, layers: list[int], path: str, tokens: int
) -> None:
    """Write the contexts of `tokens` held-out rows of all `layers`. path: where the arrays are; clean: the folder."""
    source, locations = open_corpus(corpus), find_layers(path)
    contexts = source.held_out_rows(tokens)
    ids, mask = (each[contexts.start : contexts.stop] for each in (source.tokens, source.mask))
    ids = ids.astype(np.int64)
    size = max(1, ROWS_PER_CHUNK // source.context)
    with atomic(clean) as partial, progress(len(layers), "layers", "held-out") as bar:
        group = zarr.create_group(partial, zarr_format=3)
        for name, values in (("tokens", ids), ("mask", mask)):
            create_array(group, name, values.shape, len(values), values.dtype)[:] = values
        group.attrs.update({"site": SITE, "patched": 0, "model_dtype": None, "record": current_record()})
        for layer in layers:
            group.create_group(f"layer{layer:02d}").attrs.update({"record": current_record()})
            rows = InOrder(open_array(locations[layer]), ids.ravel(), layer)
            for first in range(0, len(ids), size):
                part = rows[first * source.context : (first + size) * source.context]
                values = torch.from_numpy(part.reshape(-1, source.context, part.shape[1]))
                write_rows(group, f"layer{layer:02d}/site", len(ids), slice(first, first + len(values)), values)
            write_mean(group, mask, layer)
            bar.update()
