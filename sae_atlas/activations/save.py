"""One forward pass over a window: the site's activations of every layer of a group, in the corpus's order.

On disk: a Zarr v3 group with one array `layerLL [tokens, d_in]` per layer; with a target `[tokens, d_in + d_out]`, whose
attribute `d_in` says where it begins. Masked positions are not kept.
"""

import math
import time
from pathlib import Path

import numpy as np
import torch
import zarr
from zarr.codecs import Crc32cCodec

from sae_atlas.base_models.load import load
from sae_atlas.corpus import open_corpus
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.io.log import logger, progress
from sae_atlas.io.provenance import current_record
from sae_atlas.sites.hooks import capture_sites, check_site
from sae_atlas.sites.trace import forward_pass

# Root mean square below which rounding to float16, in steps of 2^-24 there, takes more than a millionth of the variance.
SMALLEST = 2**-24 / (12e-6) ** 0.5
SQUARED = (1e-15, 1e15)  # least and largest magnitude of activations whose squares, and sums of them, float32 holds
ROWS_PER_CHUNK = 4096  # rows of every layer that wait in memory for a whole chunk


def save_activations(
    base_model: str | Path,
    corpus: str | Path,
    activations: str | Path,
    layers: list[int],
    site: str,
    start: int,
    stop: int,
    dtype: str,
    model_dtype: str,
    contexts_per_batch: int,
    device: str = "auto",
    target: str | None = None,
) -> None:
    """Write the activations of train tokens [start, stop) at `site` of every one of `layers`, as `dtype`; with a `target`
    site, pairs.

    Raises AtlasError for an unknown site, a value that float16 cannot hold, or NaN.
    """
    model, origin = load(base_model, model_dtype, device)
    sites = [site, *([target] if target else [])]
    for each in sites:
        check_site(model, each, layers, origin)
    source = open_corpus(corpus)
    window = source.window(start, stop)
    rows = source.unmasked(window)
    started = time.monotonic()
    with atomic(activations) as partial, progress(rows, "tokens", f"{len(layers)} layers") as bar:
        group = zarr.create_group(partial, zarr_format=3)
        columns: dict[int, _Column] = {}
        for first in range(window.start, window.stop, contexts_per_batch):
            last = min(first + contexts_per_batch, window.stop)
            keep = torch.from_numpy(source.mask[first:last])
            tokens = torch.from_numpy(source.tokens[first:last].astype(np.int64)).to(model.device)
            with torch.inference_mode(), capture_sites(model, sites, layers) as captured:
                forward_pass(model, tokens)
            for layer in layers:
                values = [_stored(captured[each][layer].cpu()[keep], dtype, layer) for each in sites]
                if layer not in columns:
                    columns[layer] = _Column(group, layer, rows, values)
                columns[layer].append(values)
            bar.update(int(keep.sum()))
        for column in columns.values():
            column.flush()
        group.attrs.update(
            {
                "base_model": {key: origin.get(key) for key in ("source", "revision", "weights_sha256")},
                "site": site,
                **({"target": target} if target else {}),
                "window": [start, stop],
                "tokens": rows,
                "masked": len(window) * source.context - rows,
                "record": current_record(),
            }
        )
    seconds = time.monotonic() - started
    size = sum(column.array.nbytes for column in columns.values())
    logger.info("%d tokens x %d layers in %.1f s", rows, len(layers), seconds)
    logger.info("%.0f tokens/s, %.1f MB/s, %d bytes per token", rows / seconds, size / seconds / 1e6, size // rows)


def append_layer(group: zarr.Group, layer: int, activations: np.ndarray, dtype: str = "float16") -> None:
    """Save activations [tokens, d] that are at hand as those of a layer, as `dtype`; they are read in slices.

    Raises AtlasError as save_activations does.
    """
    column = _Column(group, layer, len(activations), [np.empty((0, activations.shape[1]), dtype)])
    for first in range(0, len(activations), ROWS_PER_CHUNK):
        part = np.asarray(activations[first : first + ROWS_PER_CHUNK], np.float32)
        column.append([_stored(torch.from_numpy(part), dtype, layer)])
    column.flush()


class _Column:
    """One layer's array, appended to in whole chunks: a chunk is written once."""

    def __init__(self, group: zarr.Group, layer: int, rows: int, like: list[np.ndarray]):
        """like: values of the input [tokens, d_in], and of the target if there is one, as `append` gets them."""
        width = sum(part.shape[1] for part in like)
        chunks = (min(rows, ROWS_PER_CHUNK), width)
        self.array = group.create_array(
            f"layer{layer:02d}",
            shape=(rows, width),
            chunks=chunks,
            dtype=like[0].dtype,
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},  # a missing chunk is damage, never zeros
        )
        if len(like) > 1:
            self.array.attrs["d_in"] = like[0].shape[1]
        self.waiting = np.empty(chunks, like[0].dtype)
        self.count = self.written = 0

    def append(self, parts: list[np.ndarray]) -> None:
        values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        while len(values):
            taken = min(len(values), len(self.waiting) - self.count)
            self.waiting[self.count : self.count + taken] = values[:taken]
            self.count += taken
            values = values[taken:]
            if self.count == len(self.waiting):
                self.flush()

    def flush(self) -> None:
        self.array[self.written : self.written + self.count] = self.waiting[: self.count]
        self.written, self.count = self.written + self.count, 0


def largest_value(values: torch.Tensor, layer: int) -> float:
    """Largest magnitude. Raises AtlasError if a value is not finite, or norms and errors of such values would not be."""
    low, high = values.aminmax() if values.numel() else (torch.zeros(()), torch.zeros(()))
    largest = torch.maximum(-low, high).item()  # NaN if any is
    if not math.isfinite(largest):
        raise AtlasError(
            f"layer {layer}: the model gives NaN or infinite activations; "
            "try base_model.dtype: float32, and check the weights"
        )
    if largest and not SQUARED[0] <= largest <= SQUARED[1]:
        raise AtlasError(
            f"layer {layer}: activations of {largest:.0e}, whose squares float32 does not hold; check what gives them, or "
            "scale them"
        )
    return largest


def _stored(values: torch.Tensor, dtype: str, layer: int) -> np.ndarray:
    """float32 or float16 values. Raises AtlasError if they are not finite, do not fit or would be rounded away."""
    values = values.float()
    largest = largest_value(values, layer)
    if dtype == "float16" and largest > float(np.finfo(np.float16).max):
        raise AtlasError(
            f"layer {layer}: activation {largest:.0f} does not fit float16 (65504); set activations.dtype: float32"
        )
    size = values.norm().item() / max(values.numel(), 1) ** 0.5
    if dtype == "float16" and 0 < size < SMALLEST:
        raise AtlasError(
            f"layer {layer}: activations of {size:.0e} lose digits in float16; set activations.dtype: float32"
        )
    return values.to(getattr(torch, dtype)).numpy()  # NumPy's conversion takes twenty times as long
