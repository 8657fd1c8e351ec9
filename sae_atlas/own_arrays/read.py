"""Saved activations as arrays [rows, d] of which rows are read by number, as float32, whatever the format holds."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.log import DISK_ERRORS
from sae_atlas.own_arrays.files import BYTES_AT_ONCE, KEY, Location

DTYPES = ("float16", "bfloat16", "float32", "float64")
OF_SAFETENSORS = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}
SAMPLED, ROWS_PER_SAMPLE = 3, 64  # parts of an array that are looked at before a run


@dataclass(frozen=True)
class Array:
    """`shape` and `dtype` as stored; `take` gives rows with ascending numbers, each once, [n, d] in any float type."""

    location: Location
    shape: tuple[int, ...]
    dtype: str
    take: Callable[[np.ndarray], np.ndarray]

    def read(self, rows: np.ndarray, layer: int) -> np.ndarray:
        """These rows, in any order, as float32 [n, d]. Raises AtlasError for a damaged file, NaN and infinity."""
        ascending, back = np.unique(rows, return_inverse=True)
        try:
            with np.errstate(over="ignore"):  # of float64, which is refused below
                values = self.take(ascending).astype(np.float32, copy=False)
        except Exception as error:  # damage shows as errors of many libraries
            if getattr(error, "errno", None) in DISK_ERRORS:
                raise
            raise AtlasError(f"{KEY}: {self.location} cannot be read ({reason(error)}); save it again") from error
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            row = ascending[int(np.argmin(finite))]
            raise AtlasError(
                f"{KEY}: {self.location}: row {row} of layer {layer} holds NaN or infinity; leave such rows out"
            )
        return values[back]


@dataclass(frozen=True)
class Shape:
    """What the arrays of all layers have in common, and how the first is stored."""

    rows: int
    width: int
    dtype: str


class InOrder:
    """Rows of an array in the order of `rows`, as an array that is read in slices from the first to the last."""

    def __init__(self, array: Array, rows: np.ndarray, layer: int):
        self.array, self.rows, self.layer = array, rows, layer
        self.shape = (len(rows), array.shape[1])
        self.size = max(1, BYTES_AT_ONCE // (4 * array.shape[1]))
        self.first, self.part = 0, np.empty((0, array.shape[1]), np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, asked: slice) -> np.ndarray:
        first, last, _ = asked.indices(len(self))
        parts = []
        while first < last:
            if not self.first <= first < self.first + len(self.part):
                self.first = first
                self.part = self.array.read(self.rows[first : first + self.size], self.layer)
            parts.append(self.part[first - self.first : last - self.first])
            first += len(parts[-1])
        return np.concatenate(parts) if parts else self.part[:0]


def open_array(location: Location) -> Array:
    """Raises AtlasError for a file that is damaged, holds no array [rows, d], or one of another type."""
    openers = {".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}
    try:
        shape, dtype, take = openers.get(location.file.suffix, _zarr)(location.file, location.name)
    except AtlasError:
        raise
    except Exception as error:  # as above
        raise AtlasError(f"{KEY}: {location} cannot be read ({reason(error)}); save it again") from error
    if len(shape) != 2 or 0 in shape:
        raise AtlasError(f"{KEY}: {location} has the shape {list(shape)}; save [rows, d]")
    if dtype not in DTYPES:
        raise AtlasError(f"{KEY}: {location} holds {dtype}; save one of {', '.join(DTYPES)} (bfloat16 as .safetensors)")
    return Array(location, tuple(shape), dtype, take)


def common_shape(locations: dict[int, Location]) -> Shape:
    """Of the arrays of these layers. Raises AtlasError where one has other rows or another width than the first."""
    arrays = {layer: open_array(location) for layer, location in locations.items()}
    (first, one), *others = arrays.items()
    for layer, other in others:
        for what, here, there in zip(("rows", "dimensions"), other.shape, one.shape, strict=True):
            if here != there:
                raise AtlasError(
                    f"{KEY}: layer {layer} has {here} {what}, layer {first} {there}; layers of one atlas have as many of both: "
                    "save the same rows of each, or list other activations.layers"
                )
    return Shape(*one.shape, one.dtype)


def check_sample(locations: dict[int, Location]) -> None:
    """Raise AtlasError if a few rows at the beginning, in the middle or at the end of a layer are not finite."""
    for layer, location in locations.items():
        array = open_array(location)
        for first in np.linspace(0, max(array.shape[0] - ROWS_PER_SAMPLE, 0), SAMPLED).astype(int):
            array.read(np.arange(first, min(first + ROWS_PER_SAMPLE, array.shape[0])), layer)


def _npy(file: Path, _) -> tuple:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    return array.shape, array.dtype.name, lambda rows: array[rows]


def _safetensors(file: Path, name: str | None) -> tuple:
    """The library checks the file; its rows are read through memory, without torch."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        names = list(opened.keys())
    if name is None and len(names) != 1:
        raise AtlasError(f"{KEY}: {file} holds {len(names)} arrays; save one in each layer's file")
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        about = json.loads(opened.read(length))[name or names[0]]
    kind, shape = about["dtype"], about["shape"]
    if kind not in OF_SAFETENSORS:
        return shape, kind, lambda rows: None
    start = 8 + length + about["data_offsets"][0]
    array = np.memmap(file, OF_SAFETENSORS[kind], "r", start, tuple(shape)) if 0 not in shape else np.empty(shape)
    if kind == "BF16":  # the upper half of a float32
        return shape, "bfloat16", lambda rows: (array[rows].astype(np.uint32) << 16).view(np.float32)
    return shape, array.dtype.name, lambda rows: array[rows]


def _parquet(file: Path, name: str | None) -> tuple:
    import pyarrow.parquet as parquet

    from sae_atlas.own_arrays.files import list_columns

    names = [name] if name else list_columns(file)
    if len(names) != 1:
        raise AtlasError(f"{KEY}: {file} has {len(names)} columns of lists; save one, a list of d numbers per row")
    opened = parquet.ParquetFile(file, memory_map=True)
    field, groups = opened.schema_arrow.field(names[0]), opened.metadata.num_row_groups
    ends = np.cumsum([0, *(opened.metadata.row_group(number).num_rows for number in range(groups))])

    def group(number: int) -> np.ndarray:
        column = opened.read_row_group(number, columns=names)[names[0]].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        lengths = set(column.value_lengths().to_pylist())
        if column.null_count or len(lengths) > 1:
            raise ValueError("its lists are not all of one length")
        return values.reshape(len(column), -1)

    def take(rows: np.ndarray) -> np.ndarray:
        numbers = np.searchsorted(ends, rows, side="right") - 1
        return np.concatenate([group(each)[rows[numbers == each] - ends[each]] for each in np.unique(numbers)])

    width = group(0).shape[1] if groups and ends[-1] else 0
    dtype = {"halffloat": "float16", "float": "float32", "double": "float64"}
    kind = str(field.type.value_type)
    return (int(ends[-1]), width), dtype.get(kind, kind), take


def _zarr(folder: Path, name: str | None) -> tuple:
    import zarr

    array = zarr.open_array(folder / (name or ""), mode="r")
    if array.nchunks_initialized < array.nchunks:
        raise AtlasError(
            f"{KEY}: {folder / (name or '')} lacks {array.nchunks - array.nchunks_initialized} of its {array.nchunks} chunks, "
            "which Zarr reads as zeros; copy or save it whole"
        )
    return array.shape, str(array.dtype), lambda rows: array.get_orthogonal_selection((rows,))
