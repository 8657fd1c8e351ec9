"""Activations saved elsewhere: arrays with planted features, each of which has a word in the text of the rows that it is in."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
import zarr
from safetensors.torch import save_file

from workflow import changed

WORDS = ("heron", "lizard", "tractor", "violin", "cactus", "glacier", "teapot", "lantern")
ROWS, D = 3600, 12
LAYERS = (2, 5)
RECIPE = {"expansion": 1, "batch": 32, "warmup": 2, "decay": 0, "learning_rate": 0.03}


def present(rows: int = ROWS) -> np.ndarray:
    """Which planted features are in which rows, bool [rows, features]."""
    return np.random.default_rng(0).random((rows, len(WORDS))) < 0.1


def directions(layer: int) -> np.ndarray:
    """Orthogonal directions of the planted features, [features, D]."""
    return np.linalg.qr(np.random.default_rng(layer).standard_normal((D, D)))[0][: len(WORDS)]


def planted(layer: int, rows: int = ROWS) -> np.ndarray:
    """Activations [rows, D] in float32."""
    generator = np.random.default_rng(100 + layer)
    strength = present(rows) * (2 + generator.random((rows, len(WORDS))))
    return (strength @ directions(layer) + 0.05 * generator.standard_normal((rows, D))).astype(np.float32)


def texts(rows: int = ROWS) -> list[str]:
    named = ([word for word, there in zip(WORDS, row, strict=True) if there] for row in present(rows))
    return [f"picture {number}: {', '.join(words) or 'nothing'}" for number, words in enumerate(named)]


def write(folder: Path) -> Path:
    """acts/layerLL.npy of all LAYERS and acts/rows.csv; returns the folder of them."""
    acts = folder / "acts"
    acts.mkdir(parents=True)
    for layer in LAYERS:
        np.save(acts / f"layer{layer:02d}.npy", planted(layer))
    with (acts / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "caption"), *enumerate(texts())])
    return acts


def config(**changes) -> dict:
    """The config of these, with changes given as dotted keys; paths are seen from the config's folder."""
    atlas = {
        "base_model": {"name": "toy-vit", "source": "activations", "path": "acts/layer{layer}.npy"},
        "corpus": {
            "name": "pictures",
            "source": "rows",
            "path": "acts/rows.csv",
            "field": "caption",
            "tokens": 3400,
            "held_out_tokens": 200,
        },
        "activations": {"shard_rows": 512, "chunk_rows": 128},
        "training": {"tokens": 3200, "snapshots": [1600]},
        "recipes": {
            "topk": {"architecture": "topk", "k": 2, **RECIPE},
            "relu": {"architecture": "relu", "sparsity_warmup": 2, "l1": {"coefficient": 0.05}, **RECIPE},
        },
        "evaluation": {"tokens": 150},
        "features": {"layers": [5], "tokens": 1500, "contexts": 6, "window": 4},
    }
    return changed(atlas, changes)


def write_npy(folder: Path, x: np.ndarray) -> str:
    np.save(folder / "layer03.npy", x)
    return f"{folder}/layer{{layer}}.npy"


def write_float64(folder: Path, x: np.ndarray) -> str:
    (folder / "3").mkdir()
    np.save(folder / "3" / "x.npy", np.asfortranarray(x.astype(np.float64)))
    return f"{folder}/{{layer}}/x.npy"


def write_safetensors(folder: Path, x: np.ndarray) -> str:
    arrays = {"layer3": x, "labels": np.zeros(3, np.float32), "layer10": x[::-1].copy()}
    save_file({name: torch.from_numpy(each) for name, each in arrays.items()}, folder / "all.safetensors")
    return f"{folder}/all.safetensors"


def write_bfloat16(folder: Path, x: np.ndarray) -> str:
    save_file({"x": torch.from_numpy(x).bfloat16()}, folder / "3.safetensors")
    return f"{folder}/{{layer}}.safetensors"


def write_parquet(folder: Path, x: np.ndarray) -> str:
    columns = {"text": ["a"] * len(x), "enc.3": pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1])}
    parquet.write_table(pa.table(columns), folder / "all.parquet", row_group_size=130)
    return f"{folder}/all.parquet"


def write_float16_lists(folder: Path, x: np.ndarray) -> str:
    lists = pa.array(list(x.astype(np.float16)), pa.list_(pa.float16()))
    parquet.write_table(pa.table({"x": lists}), folder / "3.parquet", row_group_size=77)
    return f"{folder}/{{layer}}.parquet"


def write_zarr(folder: Path, x: np.ndarray) -> str:
    group = zarr.create_group(folder / "all.zarr")
    group.create_array("layer3", shape=x.shape, dtype=x.dtype, chunks=(100, 5), shards=(500, 15))[:] = x
    return f"{folder}/all.zarr"


def write_zarr_2(folder: Path, x: np.ndarray) -> str:
    array = zarr.create_array(folder / "3.zarr", shape=x.shape, dtype=x.dtype, chunks=(100, 12), zarr_format=2)
    array[:] = x
    return f"{folder}/{{layer}}.zarr"


# name -> (function that writes layer 3 into a folder and returns the path, largest error of its type)
FORMATS = {
    "npy": (write_npy, 0),
    "npy float64": (write_float64, 0),
    "safetensors": (write_safetensors, 0),
    "safetensors bfloat16": (write_bfloat16, 2e-2),
    "parquet": (write_parquet, 0),
    "parquet float16": (write_float16_lists, 2e-3),
    "zarr 3": (write_zarr, 0),
    "zarr 2": (write_zarr_2, 0),
}


def beside_the_example(folder: Path) -> None:
    """What config/activations.yaml reads, as far as a config is checked without a run."""
    (folder / "acts").mkdir()
    for layer in (3, 7, 11):
        (folder / "acts" / f"layer{layer:02d}.npy").touch()
