"""One layer's store from one window's activations: outliers out, rows shuffled within shards, normaliser measured."""

import time
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from sae_atlas.activations.coding import Grid, encode
from sae_atlas.activations.outliers import median_norm
from sae_atlas.activations.store import seal
from sae_atlas.io.arrays import Rows
from sae_atlas.io.errors import AtlasError, Damaged
from sae_atlas.io.files import atomic
from sae_atlas.io.log import logger, progress
from sae_atlas.io.provenance import current_record

SAMPLE = 8192  # rows for the geometric median
ROWS_PER_READ = 8192
QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
# Bytes of equal significance together: those that vary little compress.
COMPRESSORS = {"none": [], "zstd": [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")]}


def shard_activations(
    activations: str | Path,
    store: str | Path,
    layer: int,
    dtype: str,
    compression: str,
    outlier_norm: float,
    shard_rows: int,
    chunk_rows: int,
    seed: int,
) -> None:
    """Write the store [tokens, d_in] of `layer`. In memory are one shard, and of every token its norm and its number.

    Tokens whose norm exceeds `outlier_norm` x the median norm (outliers.py) are dropped and counted; of pairs
    [tokens, d_in + d_out] those whose input or target does. The rows come in the corpus's random order; permuting them within
    a shard takes neighbours of one context apart. The normaliser is that of the activations before they are rounded to
    `dtype` (coding.py).
    """
    name = f"layer{layer:02d}"
    saved, about = _open(Path(activations), name)
    rows = Rows(Path(activations) / name, saved, "activations")
    started = time.monotonic()
    parts = _parts(saved)
    norms = _norms(rows, parts)
    medians = np.array([[median_norm(each)] for each in norms])
    inside = np.flatnonzero((norms <= outlier_norm * medians).all(axis=0))
    sample = np.zeros(norms.shape[1], bool)
    sample[np.random.default_rng(seed).choice(inside, min(SAMPLE, len(inside)), replace=False)] = True
    sampled, total, squared = [], np.zeros(rows.shape[1]), np.zeros(len(parts))
    grid = Grid.over(*_range(rows, inside)) if dtype == "int8" else None
    with atomic(store) as partial, progress(len(inside), "tokens", name) as bar:
        array = zarr.create_array(
            partial,
            shape=(len(inside), rows.shape[1]),
            shards=(shard_rows, rows.shape[1]),
            chunks=(chunk_rows, rows.shape[1]),
            dtype=dtype,
            compressors=[*COMPRESSORS[compression], Crc32cCodec()],
            config={"write_empty_chunks": True},  # a missing chunk is damage, never zeros
        )
        for number, first in enumerate(range(0, len(inside), shard_rows)):
            chosen = inside[first : first + shard_rows]
            positions = np.argsort(np.random.default_rng([seed, number]).permutation(len(chosen)))
            shard = np.empty((len(chosen), rows.shape[1]), dtype)
            for first_taken, taken, values in _blocks(rows, chosen):
                shard[positions[first_taken : first_taken + len(taken)]] = encode(values, grid)
                exact = values.astype(np.float64)  # of a large mean and a small spread float32 leaves little
                total += exact.sum(axis=0)
                squared += [np.vdot(exact[:, part], exact[:, part]) for part in parts]
                sampled.append(values[sample[taken]].astype(np.float64))
            array[first : first + len(chosen)] = shard
            bar.update(len(chosen))
        points, mean = np.concatenate(sampled), total / len(inside)
        measured = [
            _measured(norms[number], points[:, part], mean[part], squared[number] / len(inside))
            for number, part in enumerate(parts)
        ]
        target = {"target": {"site": about["target"], **measured[1]}} if len(measured) > 1 else {}
        array.attrs.update(
            {
                **{key: about[key] for key in ("base_model", "site", "window")},
                "layer": layer,
                "coding": {"dtype": dtype, "grid": grid and grid.to_dict()},
                "compression": compression,
                "dropped": {"mask": about["masked"], "outlier": len(sample) - len(inside)},
                "outlier_norm": outlier_norm,
                **measured[0],
                **target,
                "record": current_record(),
            }
        )
        array.attrs["seal"] = seal(array)
    seconds, size = time.monotonic() - started, _size(Path(store))
    logger.info("%d tokens kept, %d outliers dropped, in %.1f s", len(inside), len(sample) - len(inside), seconds)
    logger.info("%.1f bytes per token, %.1f MB/s", size / len(inside), size / seconds / 1e6)


def geometric_median(points: np.ndarray, steps: int = 100, tolerance: float = 1e-6) -> np.ndarray:
    """Point with the least sum of distances to `points` [n, d] (Weiszfeld's iteration). Same unit as the points."""
    median = points.mean(axis=0)
    for _ in range(steps):
        distance = np.maximum(np.linalg.norm(points - median, axis=1), 1e-12)
        moved = (points / distance[:, None]).sum(axis=0) / (1 / distance).sum()
        if np.linalg.norm(moved - median) <= tolerance * max(np.linalg.norm(moved), 1e-12):
            return moved
        median = moved
    return median


def _open(activations: Path, name: str) -> tuple[zarr.Array, dict]:
    """(saved activations of a layer, what is said of all). Raises Damaged where they are not to be read."""
    try:
        source = zarr.open_group(activations, mode="r")
        saved, about = source[name], dict(source.attrs)
        whole = {"base_model", "site", "window", "masked"} <= set(about)
    except Exception as error:  # damaged metadata shows as errors of many kinds
        if isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError):
            raise  # it may pass
        raise Damaged(activations, f"holds no readable {name}") from error
    if not whole:
        raise Damaged(activations, "its attributes are not whole")
    return saved, about


def _parts(array: zarr.Array) -> list[slice]:
    """Columns of the input, and of the target in an array of pairs."""
    if "d_in" not in array.attrs:
        return [slice(None)]
    d_in = array.attrs["d_in"]
    return [slice(0, d_in), slice(d_in, None)]


def _measured(norms: np.ndarray, points: np.ndarray, mean: np.ndarray, squared: float) -> dict:
    """Attributes of activations. norms: of all of them; points [n, d]: a sample; squared: mean squared norm."""
    return {
        "norm_quantiles": dict(zip(map(str, QUANTILES), np.quantile(norms, QUANTILES).tolist(), strict=True)),
        **_moments(mean, squared),
        "geometric_median": geometric_median(points).tolist(),
    }


def _moments(mean: np.ndarray, squared: float) -> dict:
    """Mean, mean squared norm, and mean squared distance from the mean (`spread`)."""
    spread = squared - float(mean @ mean)
    if not spread > 1e-10 * squared:  # what rounding leaves of nothing
        raise AtlasError("activations: every token has the same activation; there is nothing to explain at this site")
    return {"mean": mean.tolist(), "mean_squared_norm": float(squared), "spread": float(spread)}


def _norms(rows: Rows, parts: list[slice]) -> np.ndarray:
    """Norm of every row in each of the parts of its columns, [parts, tokens] float32."""
    norms = np.empty((len(parts), rows.shape[0]), np.float32)
    for first in range(0, rows.shape[0], ROWS_PER_READ):
        block = rows[first : first + ROWS_PER_READ].astype(np.float32)
        for number, columns in enumerate(parts):
            values = block[:, columns]
            norms[number, first : first + len(block)] = np.sqrt(np.einsum("ij,ij->i", values, values))
    return norms


def _range(rows: Rows, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of every dimension over the rows that are kept, [d_in] each."""
    low, high = np.full(rows.shape[1], np.inf), np.full(rows.shape[1], -np.inf)
    for _, _, values in _blocks(rows, inside):
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
    return low, high


def _blocks(rows: Rows, chosen: np.ndarray):
    """The rows with the ascending numbers `chosen`: (place in `chosen`, numbers, values) of a block at a time."""
    for first in range(0, len(chosen), ROWS_PER_READ):
        taken = chosen[first : first + ROWS_PER_READ]
        yield first, taken, rows[taken[0] : taken[-1] + 1][taken - taken[0]]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
