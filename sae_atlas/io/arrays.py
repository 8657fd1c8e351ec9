"""Zarr arrays that are read in rows and notice damage: a missing or altered chunk is an error that names it."""

from pathlib import Path

import numpy as np
import zarr

from sae_atlas.io.errors import AtlasError


class Rows:
    """An array on disk, chunked along its first dimension, written with `write_empty_chunks` and a checksum per chunk.

    `what` names it in errors (`store`). Raises AtlasError, at once if a file of it is missing, on reading if a chunk is
    altered or cut short.
    """

    def __init__(self, path: str | Path, array: zarr.Array, what: str):
        self.path, self.array = Path(path), array
        self.remedy = f"Delete the {what} and rerun; it will be rebuilt."
        self.shape, self.dtype = array.shape, array.dtype
        self.chunk_rows = array.chunks[0]
        per_file = (array.shards or array.chunks)[0]
        for number in range(-(-array.shape[0] // per_file)):
            if not self.path.joinpath("c", str(number), *["0"] * (array.ndim - 1)).is_file():  # zarr would read zeros
                kind = "shard" if array.shards else "chunk"
                raise AtlasError(f"{self.path}: {kind} {number} is missing. {self.remedy}")

    def __getitem__(self, rows: slice) -> np.ndarray:
        try:
            return self.array[rows]
        except Exception as error:  # damage shows as errors of many kinds: checksum, index, decompression
            raise AtlasError(f"{self.path}: {self._damage(rows)}. {self.remedy}") from error

    def _damage(self, rows: slice) -> str:
        first, last, _ = rows.indices(self.shape[0])
        size = self.chunk_rows
        for chunk in range(first // size, -(-last // size)):
            try:
                self.array[chunk * size : (chunk + 1) * size]
            except Exception as error:
                return f"chunk {chunk} " + (
                    "fails its checksum (crc32c)" if "checksum" in str(error) else "is not readable"
                )
        return f"rows {first} to {last} cannot be read"
