"""The store: one layer's activations of one window on disk, shuffled, with checksums and its normaliser.

Zarr v3 array `[tokens, d_in]` of float16 or float32 in shards of checksummed chunks. Attributes: where the activations
come from (`base_model`, `site`, `layer`, `window`), what was `dropped`, `mean`, `spread` = E||x - mean||^2,
`geometric_median`, `norm_quantiles`, `record`, and `seal`, the hash of all these and of the array's shape.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from sae_atlas.arrays import Rows
from sae_atlas.errors import AtlasError
from sae_atlas.provenance import check_record

REMEDY = "Delete the store and rerun; it will be rebuilt."
READ_BYTES = (
    2**24
)  # float32 bytes of one read: what the C library recycles instead of asking the system for fresh pages


@dataclass(frozen=True)
class Store:
    """An opened store. `mean` and `scale` make the activations centred with mean squared norm 1: (x - mean) * scale."""

    path: Path
    array: Rows
    attrs: dict
    mean: np.ndarray  # [d_in] float32
    scale: float
    geometric_median: np.ndarray  # [d_in] float32

    @property
    def rows(self) -> int:
        return self.array.shape[0]

    @property
    def d_in(self) -> int:
        return self.array.shape[1]

    @property
    def record(self) -> dict:
        return self.attrs["record"]

    def batches(self, batch: int, start_row: int = 0, pinned: bool = False) -> Iterator:
        """Raw activations in stored order, [batch, d_in], from `start_row` on, whole batches only.

        float32 arrays; pinned: torch tensors as stored, in memory a GPU copies from by itself. The next rows are read by
        a background thread (more do not help: Zarr is bound by Python's lock). Raises AtlasError for a damaged chunk.
        """
        stop = start_row + (self.rows - start_row) // batch * batch
        unit = self.array.chunk_rows if self.array.chunk_rows % batch == 0 else batch
        step = max(1, READ_BYTES // (4 * self.d_in * unit)) * unit
        with ThreadPoolExecutor(1, "store") as reader:
            ahead = reader.submit(self._read, start_row, min(start_row + step, stop), pinned)
            for first in range(start_row, stop, step):
                block = ahead.result()
                following = min(first + step, stop)
                ahead = reader.submit(self._read, following, min(following + step, stop), pinned)
                for row in range(0, len(block), batch):
                    yield block[row : row + batch]

    def _read(self, first: int, last: int, pinned: bool):
        import torch  # its conversion from float16 takes a fifth of NumPy's time

        block = torch.from_numpy(self.array[first:last])
        return block.pin_memory() if pinned else block.float().numpy()


def seal(array: zarr.Array) -> str:
    """Hash of the attributes and the shape: chunks have checksums of their own, Zarr's metadata has none."""
    attributes = {key: value for key, value in array.attrs.items() if key != "seal"}
    text = json.dumps([attributes, array.shape, array.chunks, array.shards, str(array.dtype)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def open_store(path: str | Path, expected: str | None = None) -> Store:
    """Open a store. Raises AtlasError if it is not there, not whole or not the `expected` one."""
    path = Path(path)
    try:
        array = zarr.open_array(path, mode="r")
        attrs = dict(array.attrs)
        whole = attrs["seal"] == seal(array)
    except Exception as error:  # damaged metadata shows as errors of many kinds
        raise AtlasError(f"{path}: no readable store. {REMEDY}") from error
    if not whole:
        raise AtlasError(f"{path}: its attributes fail their checksum. {REMEDY}")
    if expected is not None:
        check_record(path, attrs.get("record"), expected)
    mean, median = (np.array(attrs[key], np.float32) for key in ("mean", "geometric_median"))
    return Store(path, Rows(path, array, "store"), attrs, mean, attrs["spread"] ** -0.5, median)
