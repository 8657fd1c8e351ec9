"""Checkpoints: the SAE on raw activations, the normaliser folded in; plain tensors and plain Python values."""

import io
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from sae_atlas.errors import AtlasError
from sae_atlas.files import atomic
from sae_atlas.provenance import check_record

DAMAGED = "Delete it and rerun; it will be rebuilt."


def save_tensors(path: str | Path, value: dict) -> None:
    """torch.save, atomically; through memory, so that the bytes do not depend on the file's name."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with atomic(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def load_tensors(path: str | Path, remedy: str = DAMAGED) -> dict:
    """What save_tensors wrote. Raises AtlasError if the file is missing, truncated, altered or holds code.

    remedy: what to do about such a file. Nothing in it is ever run.
    """
    path = Path(path)
    if not path.is_file():
        raise AtlasError(f"{path}: is not there. {'Rerun; it will be rebuilt.' if remedy == DAMAGED else remedy}")
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch does not look at the sums
        if broken:
            raise AtlasError(f"{path}: {broken} fails its checksum (crc32). {remedy}")
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own text tells how to run it
        raise AtlasError(f"{path}: holds more than tensors and plain values; it may be code and is not run") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError) as error:
        raise AtlasError(f"{path}: damaged or no checkpoint ({str(error).splitlines()[0]}). {remedy}") from error
    if not isinstance(value, dict):
        raise AtlasError(f"{path}: holds {type(value).__name__}, not a dictionary. {remedy}")
    return value


def fold(weights: dict[str, Tensor], threshold: Tensor | None, mean: Tensor, scale: float) -> dict[str, Tensor]:
    """`model_state` on raw activations of scaled weights (sae_atlas/saes/parts.py): latents become f / scale.

    threshold: [d_sae] in scaled space, or None for architectures without one.
    """
    state = {
        "b_pre": mean.double() + weights["b_dec"].double() / scale,
        "encoder.weight": weights["W_enc"],
        "encoder.bias": weights["b_enc"].double() / scale,
        "decoder.weight": weights["W_dec"].T,
        "decoder.bias": torch.zeros_like(weights["b_dec"]),
    }
    if threshold is not None:
        state["threshold"] = threshold.double() / scale
    return {name: tensor.detach().to(torch.float32).contiguous().clone() for name, tensor in state.items()}


def save(path: str | Path, model_state: dict[str, Tensor], config: dict, stats: dict) -> None:
    """Write a checkpoint. config: recipe, d_in, d_sae, ... and `record`; stats: plain numbers."""
    save_tensors(path, {"model_state": model_state, "config": config, "stats": stats})


def load_checkpoint(path: str | Path, expected: str | None = None) -> dict:
    """`{model_state, config, stats}`, with sums, keys, shapes and (if `expected` is given) identity checked.

    Raises AtlasError with one line that names the file and the remedy.
    """
    value = load_tensors(path)
    missing = {"model_state", "config", "stats"} - set(value)
    if missing:
        raise AtlasError(f"{path}: no checkpoint, it has no {', '.join(sorted(missing))}. {DAMAGED}")
    if expected is not None:
        check_record(path, value["config"].get("record"), expected)
    d_in, d_sae = value["config"]["d_in"], value["config"]["d_sae"]
    shapes = {
        "b_pre": (d_in,),
        "encoder.weight": (d_sae, d_in),
        "encoder.bias": (d_sae,),
        "decoder.weight": (d_in, d_sae),
        "decoder.bias": (d_in,),
    }
    if "threshold" in value["model_state"]:
        shapes["threshold"] = (d_sae,)
    for name, shape in shapes.items():
        found = value["model_state"].get(name)
        if found is None or tuple(found.shape) != shape:
            found_shape = None if found is None else tuple(found.shape)
            raise AtlasError(f"{path}: {name} has shape {found_shape}, expected {shape}. {DAMAGED}")
    return value
