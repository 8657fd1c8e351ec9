"""Train one SAE on an array of activations: the stages from saved activations to a checkpoint, without a workflow."""

import tempfile
from pathlib import Path

import numpy as np
import zarr

from sae_atlas.activations.save import append_layer
from sae_atlas.activations.shard import shard_activations
from sae_atlas.config.activations import Activations
from sae_atlas.config.read import complete_recipe
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.publish.formats.import_start import import_start
from sae_atlas.saes.sae import Sae
from sae_atlas.training.train import train


def train_sae(activations: np.ndarray, folder: str | Path, device: str = "auto", threads: int = 1, **recipe) -> Sae:
    """Train an SAE on activations [tokens, d_in] of any model, read once; returns it, on raw activations.

    recipe: keys of a recipe in the config (`architecture`, `k`, `expansion`, ...), `start_from` as a path. Rows whose norm is
    above the config's `outlier_norm` medians are left out. `sae.pt` and `curve.parquet` stay in `folder`, which is made.
    Raises AtlasError for a recipe that is wrong, for an array of another shape or of no real numbers, for NaN, for values
    beyond float16, and for fewer rows than a batch.
    """
    if isinstance(recipe.get("start_from"), (str, Path)):
        recipe["start_from"] = {"path": str(recipe["start_from"])}
    values, folder = complete_recipe(recipe), Path(folder)
    start = values.get("start_from", {})
    if set(start) - {"path"}:
        raise AtlasError("start_from: an array has no other recipes, layers or snapshots; give the path of an SAE")
    if "finetune" in values:
        raise AtlasError("finetune: an array has no model that reads the reconstruction; remove it")
    if np.ndim(activations) != 2 or 0 in np.shape(activations):
        raise AtlasError(f"activations: an array of shape {list(np.shape(activations))}; give one of [tokens, d_in]")
    dtype = np.asarray(activations[:1]).dtype
    if dtype.kind not in "fiub":
        raise AtlasError(f"activations: an array of {dtype}; give one of real numbers")
    folder.mkdir(parents=True, exist_ok=True)
    window = {"start": 0, "stop": len(activations), "total": len(activations)}
    files = {"checkpoint": folder / "sae.pt", "curve": folder / "curve.parquet"}
    settings = Activations().plain()
    keys = ("dtype", "compression", "outlier_norm", "shard_rows", "chunk_rows", "seed")
    with tempfile.TemporaryDirectory(prefix=".train-", dir=folder) as temporary:
        scratch = Path(temporary)
        saved, store = scratch / "activations.zarr", scratch / "store.zarr"
        files["resume"] = scratch / "resume.pt"
        if start:
            files["start_from"] = scratch / "start.pt"
            import_start(files["start_from"], start["path"], 0)
        with atomic(saved) as partial:
            group = zarr.create_group(partial, zarr_format=3)
            append_layer(group, 0, activations)
            group.attrs.update({"base_model": None, "site": None, "window": [0, len(activations)], "masked": 0})
        shard_activations(saved, store, 0, **{key: settings[key] for key in keys})
        train(store, values, **window, **files, device=device, threads=threads)
    return Sae.load(files["checkpoint"])
