"""The chunks of a store, read from the shards' files by threads.

Around Zarr's own reading, which holds Python's lock for most of a chunk: 1.1 GB/s with any number of threads, against
4.8 GB/s with two here (float16 to float32, from the page cache, checksums included). The layout is Zarr v3's: a
shard is its chunks, then an index of (offset, length) per chunk as 64-bit little-endian numbers, then the index's crc32c;
a chunk is its bytes, compressed or not, then their crc32c.
"""

import os
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc

from sae_atlas.io.errors import AtlasError, Damaged, reason

SUM_BYTES = 4
ENTRY_BYTES = 16


class Chunks:
    """Reads the chunks of a sharded array [rows, d_in] by number; any thread may ask. `compressed`: with Blosc.

    Raises Damaged, which names the chunk, for a file that is missing (at once), cut short or altered (on reading).
    """

    def __init__(self, path: Path, array: zarr.Array, compressed: bool):
        self.path, self.compressed = path, compressed
        self.shape, self.dtype, self.rows = array.shape, array.dtype, array.chunks[0]
        self.per_shard = array.shards[0] // array.chunks[0]
        for shard in range(-(-array.shape[0] // array.shards[0])):
            if not self._file(shard).is_file():
                raise Damaged(path, f"shard {shard} is missing")

    def __len__(self) -> int:
        return -(-self.shape[0] // self.rows)

    def read(self, number: int) -> np.ndarray:
        """Chunk `number` as stored, [rows, d_in]; the last one is as long as the array leaves it."""
        shard, index = divmod(number, self.per_shard)
        try:
            file = os.open(self._file(shard), os.O_RDONLY)
            try:
                content = self._content(file, index)
            finally:
                os.close(file)
            if self.compressed:
                if int(content[4:8].view("<u4")[0]) != self.rows * self.shape[1] * self.dtype.itemsize:
                    raise ValueError("another size")  # before there is memory for it
                content = blosc.decompress(content, np.empty(self.rows * self.shape[1], self.dtype))
            values = content.view(self.dtype).reshape(self.rows, self.shape[1])
        except OSError as error:  # which may pass
            raise AtlasError(f"{self.path}: chunk {number} is not readable ({reason(error)}). Run again.") from error
        except (ValueError, RuntimeError) as error:  # the sums, sizes; the compressor
            raise Damaged(self.path, f"chunk {number} {_what(error)}") from error
        return values[: self.shape[0] - number * self.rows]

    def _file(self, shard: int) -> Path:
        return self.path / "c" / str(shard) / "0"

    def _content(self, file: int, index: int) -> np.ndarray:
        length = self.per_shard * ENTRY_BYTES + SUM_BYTES
        entries = _summed(file, os.fstat(file).st_size - length, length).view("<u8").reshape(-1, 2)
        offset, length = map(int, entries[index])
        return _summed(file, offset, length)


def _summed(file: int, offset: int, length: int) -> np.ndarray:
    """`length` bytes at `offset` without the checksum at their end. Raises ValueError if it does not fit them."""
    if offset < 0 or offset + length > os.fstat(file).st_size:
        raise ValueError("beyond the end of the file")
    content = np.empty(length, np.uint8)
    if os.preadv(file, [content], offset) != length:
        raise ValueError("cut short")
    if google_crc32c.value(content[:-SUM_BYTES]) != int(content[-SUM_BYTES:].view("<u4")[0]):
        raise ValueError("checksum")
    return content[:-SUM_BYTES]


def _what(error: Exception) -> str:
    return "fails its checksum (crc32c)" if str(error) == "checksum" else "is not readable"
