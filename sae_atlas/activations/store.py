"""The store: one layer's activations of one window on disk, shuffled, with checksums and its normaliser.

Zarr v3 array `[tokens, d_in]` (coding.py) in shards of checksummed chunks; of pairs, for transcoders, `[tokens, d_in + d_out]`,
a row being a token's input and its target. Attributes: where the activations come from (`base_model`, `site`, `layer`,
`window`), how they are written (`coding`, `compression`), what was `dropped`, `mean`, `spread` = E||x - mean||^2,
`geometric_median`, `norm_quantiles`, the same and the site of the `target`, `record`, and `seal`, the hash of all these and of
the array's shape.
"""

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr

from sae_atlas.activations.chunks import Chunks
from sae_atlas.activations.coding import Grid, decode
from sae_atlas.io.errors import REMAKE, AtlasError, Damaged, reason

READERS = 2  # threads; two read more than 4 GB/s, and training has the other cores
CHUNKS_AHEAD = 3  # chunks read before they are asked for: more would leave the processor's cache before they are used


class Normaliser(NamedTuple):
    """`mean` and `scale` make activations centred with mean squared norm 1: (x - mean) * scale."""

    mean: np.ndarray  # [d] float32
    scale: float
    geometric_median: np.ndarray  # [d] float32

    @classmethod
    def of(cls, attrs: dict) -> "Normaliser":
        mean, median = (np.array(attrs[key], np.float32) for key in ("mean", "geometric_median"))
        return cls(mean, float(attrs["spread"] ** -0.5), median)


@dataclass(frozen=True)
class Store:
    """An opened store; its batches are of [batch, d_in], or of pairs [batch, d_in + d_out]."""

    path: Path
    chunks: Chunks
    grid: Grid | None  # of int8
    attrs: dict
    input: Normaliser
    target: Normaliser | None  # of pairs

    @property
    def rows(self) -> int:
        return self.chunks.shape[0]

    @property
    def d_in(self) -> int:
        return len(self.input.mean)

    @property
    def record(self) -> dict:
        return self.attrs["record"]

    def batches(self, batch: int, start_row: int = 0, pinned: bool = False) -> Iterator:
        """Raw rows in stored order, from `start_row` on, whole batches only.

        float32 arrays; pinned: torch tensors, float16 where the store is, in memory a GPU copies from by itself. The chunks
        ahead are read by background threads. Raises AtlasError for a damaged chunk.
        """
        first, skipped = divmod(start_row, self.chunks.rows)
        pieces, rows = [], 0
        for chunk in self._decoded(first, pinned):
            pieces.append(chunk[skipped:])
            rows, skipped = rows + len(pieces[-1]), 0
            if rows < batch:
                continue
            block = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            whole = rows - rows % batch
            pieces, rows = [block[whole:]] if whole < rows else [], rows - whole
            block = _pinned(block[:whole]) if pinned else block
            for row in range(0, whole, batch):
                yield block[row : row + batch]

    def _decoded(self, first: int, pinned: bool) -> Iterator[np.ndarray]:
        """Chunks from number `first` on, float32, or for a GPU as they are stored."""
        numbers, readers = iter(range(first, len(self.chunks))), _readers()
        ahead = deque(readers.submit(self._read, number, pinned) for number in itertools.islice(numbers, CHUNKS_AHEAD))
        while ahead:
            chunk = ahead.popleft().result()
            ahead.extend(readers.submit(self._read, number, pinned) for number in itertools.islice(numbers, 1))
            yield chunk

    def _read(self, number: int, pinned: bool) -> np.ndarray:
        stored = self.chunks.read(number)
        return stored if pinned and self.grid is None else decode(stored, self.grid)


@cache
def _readers() -> ThreadPoolExecutor:
    """Threads that are kept: a reading given up ends wherever its memory is freed, also where none may be waited for."""
    return ThreadPoolExecutor(READERS, "store")


def _pinned(block: np.ndarray):
    import torch

    return torch.from_numpy(block).pin_memory()


def seal(array: zarr.Array) -> str:
    """Hash of the attributes and the shape: chunks have checksums of their own, Zarr's metadata has none."""
    attributes = {key: value for key, value in array.attrs.items() if key != "seal"}
    text = json.dumps([attributes, array.shape, array.chunks, array.shards, str(array.dtype)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def open_store(path: str | Path) -> Store:
    """Open a store. Raises AtlasError if it is not there or not whole."""
    path = Path(path)
    try:
        array = zarr.open_array(path, mode="r")
        attrs = dict(array.attrs)
        whole = attrs["seal"] == seal(array)
    except (OSError, MemoryError) as error:  # which may pass
        raise AtlasError(f"{path}: no readable store ({reason(error)}). {REMAKE}") from error
    except Exception as error:  # damaged metadata shows as errors of many kinds
        raise Damaged(path, "no readable store") from error
    if not whole:
        raise Damaged(path, "its attributes fail their checksum")
    try:
        parts = [Normaliser.of(each) for each in (attrs, attrs.get("target")) if each is not None]
        grid = Grid.from_dict(attrs["coding"]["grid"]) if attrs["coding"]["grid"] else None
        _check_dimensions([part.mean for part in parts], array)
        _check_dimensions([part.geometric_median for part in parts], array)
        if grid is not None:
            for each in (grid.middle, grid.step):
                _check_dimensions([each], array)
        chunks = Chunks(path, array, attrs["compression"] != "none")
        return Store(path, chunks, grid, attrs, *parts, *[None] * (2 - len(parts)))
    except AtlasError:
        raise
    except Exception as error:  # sealed, but not by us
        raise AtlasError(f"{path}: its attributes are no store's ({reason(error)}). {REMAKE}") from error


def _check_dimensions(parts: list[np.ndarray], array: zarr.Array) -> None:
    """Raise ValueError if the numbers of the parts are not one per column."""
    numbers = np.concatenate(parts)
    if array.ndim != 2 or numbers.shape != array.shape[1:]:
        raise ValueError(f"{numbers.shape} numbers for activations of shape {array.shape}")
