"""Rows of saved activations in the corpus's order, in place of a forward pass: on disk as activations/save.py has them."""

from pathlib import Path

import zarr

from sae_atlas.activations.save import append_layer
from sae_atlas.corpus import open_corpus
from sae_atlas.io.files import atomic, read_json
from sae_atlas.io.log import progress
from sae_atlas.io.provenance import current_record
from sae_atlas.own_arrays.files import SITE, find_layers
from sae_atlas.own_arrays.read import InOrder, open_array


def save_rows(
    base_model: str | Path,
    corpus: str | Path,
    activations: str | Path,
    layers: list[int],
    path: str,
    start: int,
    stop: int,
    dtype: str,
) -> None:
    """Write rows [start, stop) of the corpus's order of every one of `layers`, as `dtype`. path: where the arrays are.

    Raises AtlasError for a file that cannot be read, a value that `dtype` cannot hold, or NaN.
    """
    origin, source = read_json(base_model), open_corpus(corpus)
    window, locations = source.window(start, stop), find_layers(path)
    rows = source.tokens[window.start : window.stop].astype("int64").ravel()
    with atomic(activations) as partial, progress(len(layers), "layers", "activations") as bar:
        group = zarr.create_group(partial, zarr_format=3)
        for layer in layers:
            append_layer(group, layer, InOrder(open_array(locations[layer]), rows, layer), dtype)
            bar.update()
        group.attrs.update(
            {
                "base_model": {"source": origin["source"]},
                "site": SITE,
                "window": [start, stop],
                "tokens": len(rows),
                "masked": 0,
                "record": current_record(),
            }
        )
