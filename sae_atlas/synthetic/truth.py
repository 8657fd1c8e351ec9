"""The rows of synthetic worlds on disk, an array per layer as own_arrays reads it, and the truth beside them.

`rows/layerLL.npy` [rows, d] in float32, and a Zarr v3 group `truth.zarr` with a group `layerLL` for each: `directions`
[features, d], `probability`, `parent` (-1: none), `excludes` [features]; which features are active in row r stands in `active`
from `start`[r] to `start`[r + 1], ascending.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from scipy.sparse import csr_array
from zarr.codecs import Crc32cCodec

from sae_atlas.io.arrays import Rows
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.io.log import progress
from sae_atlas.synthetic.places import ROWS, TRUTH, rows_path
from sae_atlas.synthetic.world import World, make_world, rows_of

VALUES_PER_CHUNK = 2**20


def write_worlds(folder: str | Path, rows: int, generator: dict) -> str:
    """Draw `rows` rows of every world of `generator` (config section `base_model.generator`); returns `rows_path`.

    Any number of threads gives the same bits. Raises AtlasError for an L0 that cannot be reached.
    """
    folder, about = Path(folder), dict(generator)
    layers, seed = about.pop("layers"), about.pop("seed")
    with (
        atomic(folder / ROWS) as arrays,
        atomic(folder / TRUTH) as truth,
        progress(layers * rows, "rows", "synthetic rows") as bar,
    ):
        arrays.mkdir()
        group = zarr.create_group(truth, zarr_format=3)
        for layer in range(layers):
            world = make_world(seed, layer, **about)
            file, shape = arrays / f"layer{layer:02d}.npy", (rows, world.directions.shape[1])
            x = np.lib.format.open_memmap(file, "w+", np.float32, shape)
            _write_layer(group.create_group(f"layer{layer:02d}"), world, x, seed, layer, bar.update)
            x.flush()
    return rows_path(folder)


def _write_layer(group, world: World, x: np.ndarray, seed: int, layer: int, update: Callable[[int], object]) -> None:
    features = np.min_scalar_type(len(world.directions) - 1)
    active, counts = [], [np.zeros(1, int)]
    for part, first in enumerate(range(0, len(x), world.rows_at_once)):
        drawn = slice(first, min(first + world.rows_at_once, len(x)))
        x[drawn], magnitudes = rows_of(world, seed, layer, part, drawn.stop - drawn.start)
        active.append(magnitudes.indices.astype(features))
        counts.append(np.diff(magnitudes.indptr))
        update(drawn.stop - drawn.start)
    start = np.concatenate(counts).cumsum()
    about = {"probability": world.probability, "parent": world.forest.parent, "excludes": world.forest.excludes}
    for name, values in {
        **about,
        "directions": world.directions,
        "active": np.concatenate(active),
        "start": start,
    }.items():
        chunks = (min(len(values), max(1, VALUES_PER_CHUNK // values[0].size)), *values.shape[1:])
        codecs = {"compressors": [Crc32cCodec()], "config": {"write_empty_chunks": True}}
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, **codecs)[:] = values


@dataclass(frozen=True)
class Truth:
    """What is known of a layer: see the head of the module."""

    directions: np.ndarray
    probability: np.ndarray
    parent: np.ndarray
    start: np.ndarray
    entries: np.ndarray

    def active(self, rows: np.ndarray) -> csr_array:
        """Which features are active in these rows, 1 where they are, float64 [rows, features]."""
        counts = self.start[rows + 1] - self.start[rows]
        ends = counts.cumsum()
        positions = np.repeat(self.start[rows] - ends + counts, counts) + np.arange(counts.sum())
        shape = (len(rows), len(self.directions))
        return csr_array(
            (np.ones(len(positions)), self.entries[positions].astype(np.int64), np.append(0, ends)), shape=shape
        )


def read_truth(folder: str | Path, layer: int) -> Truth:
    """The truth of a layer. folder: of the base model. Raises AtlasError where it is missing or damaged."""
    where = Path(folder) / TRUTH / f"layer{layer:02d}"
    names = {"directions": "directions", "probability": "probability", "parent": "parent", "start": "start"}
    names["entries"] = "active"
    try:
        arrays = {key: zarr.open_array(where / name, mode="r") for key, name in names.items()}
    except Exception as error:  # zarr raises many kinds for what is missing or cut off
        raise AtlasError(
            f"{where}: no readable truth. Delete {Path(folder) / 'provenance.json'} and rerun; it will be drawn again"
        ) from error
    opened = {key: Rows(where / names[key], array, "base model") for key, array in arrays.items()}
    return Truth(**{key: rows[:] for key, rows in opened.items()})
