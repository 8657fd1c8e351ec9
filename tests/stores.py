"""Tiny stores for training tests: sparse sums of known directions, so that there is something to learn."""

from pathlib import Path

import numpy as np
import zarr

from sae_atlas.activations.shard import shard_activations
from sae_atlas.activations.store import Normaliser

D_IN, D_OUT = 16, 10


def activations(rows: int, seed: int = 0) -> np.ndarray:
    """[rows, D_IN] float32: a few of 48 fixed directions per row, off-centre."""
    directions = np.random.default_rng(7).normal(size=(48, D_IN))
    generator = np.random.default_rng(seed)
    strengths = (generator.random((rows, 48)) < 0.06) * generator.exponential(size=(rows, 48))
    return (strengths @ directions + 2.0 + 0.05 * generator.normal(size=(rows, D_IN))).astype(np.float32)


def targets(inputs: np.ndarray) -> np.ndarray:
    """[rows, D_OUT] float32: what a small MLP with random weights makes of inputs [rows, D_IN], off-centre."""
    generator = np.random.default_rng(8)
    W_in, W_out = generator.normal(size=(D_IN, 32)), generator.normal(size=(32, D_OUT))
    return (np.maximum((inputs - 2.0) @ W_in - 2.0, 0) @ W_out / 8 - 3.0).astype(np.float32)


def normaliser(d: int, median=0.0) -> Normaliser:
    """Of activations that are scaled already, with this geometric median, a number or [d]."""
    return Normaliser(np.zeros(d, np.float32), 1.0, np.broadcast_to(np.asarray(median, np.float32), (d,)).copy())


def make_store(
    folder: Path,
    rows: int = 1024,
    seed: int = 0,
    values: np.ndarray | None = None,
    compression: str = "none",
    pairs: bool = False,
) -> Path:
    """A real store, through the real shard stage. pairs: of activations and `targets`."""
    values = activations(rows, seed) if values is None else values
    source = zarr.open_group(folder / f"activations_{seed}", mode="w")
    source.attrs.update({"base_model": {"name": "none"}, "site": "resid_post", "window": [0, rows], "masked": 0})
    if pairs:
        values = np.concatenate([values, targets(values)], axis=1)
        source.attrs.update({"site": "mlp_in", "target": "mlp_out"})
    source.create_array("layer00", data=values)
    if pairs:
        source["layer00"].attrs["d_in"] = D_IN
    output = folder / f"store_{seed}.zarr"
    shard_activations(
        folder / f"activations_{seed}",
        output,
        layer=0,
        dtype="float32",
        compression=compression,
        outlier_norm=1e6,
        shard_rows=512,
        chunk_rows=256,
        seed=seed,
    )
    return output
