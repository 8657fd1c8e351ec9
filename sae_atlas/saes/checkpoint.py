"""Checkpoints: the SAE on raw activations, the normaliser folded in; plain tensors and plain Python values."""

from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from sae_atlas.io.errors import FETCH, REMAKE, AtlasError, nearest
from sae_atlas.io.files import atomic
from sae_atlas.io.provenance import current_record
from sae_atlas.saes.architectures import ARCHITECTURES
from sae_atlas.saes.archive import read_checked
from sae_atlas.saes.token_norm import TOKEN_NORMS

SHAPES = {  # of the tensors in `model_state`
    "b_pre": ("d_in",),
    "encoder.weight": ("d_sae", "d_in"),
    "encoder.bias": ("d_sae",),
    "decoder.weight": ("d_in", "d_sae"),
    "decoder.bias": ("d_in",),
}
OF_TRANSCODERS = {  # whose encoder reads x itself, without a bias that is subtracted first
    "encoder.weight": ("d_sae", "d_in"),
    "encoder.bias": ("d_sae",),
    "decoder.weight": ("d_out", "d_sae"),
    "decoder.bias": ("d_out",),
}
OPTIONAL = {"threshold": ("d_sae",), "skip.weight": ("d_out", "d_in")}  # where the architecture or the recipe has one


def save_tensors(path: str | Path, value: dict) -> None:
    """torch.save, atomically; to an opened file, so that the bytes do not depend on its name. Nothing is copied in memory."""
    with atomic(path) as partial, partial.open("wb") as file:
        stream = _Stream(file)
        torch.save(value, stream)
        if stream.error:
            raise stream.error


class _Stream:
    """A file for torch.save, which writes on after an error, until it aborts the process: the first error is kept instead."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, content) -> int:
        if self.error is None:
            try:
                self.file.write(content)
            except OSError as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        pass


def load_tensors(path: str | Path, remedy: str = REMAKE) -> dict:
    """What save_tensors wrote. Raises AtlasError if the file is missing, truncated, altered or holds code.

    remedy: what to do about such a file; by default it is one that the workflow makes (Damaged). Nothing in it is ever run.
    """
    return read_checked(path, lambda _: torch.load(path, map_location="cpu", weights_only=True), remedy)


def fold(weights: dict[str, Tensor], threshold: Tensor | None, mean: Tensor, scale: float) -> dict[str, Tensor]:
    """`model_state` on raw activations of scaled weights (sae_atlas/saes/parts.py): latents become f / scale.

    threshold: [d_sae] in scaled space, or None for architectures without one.
    """
    b_dec, b_enc = mean.double() + weights["b_dec"].double() / scale, weights["b_enc"].double() / scale
    threshold = None if threshold is None else threshold.double() / scale
    return model_state(weights["W_enc"], b_enc, weights["W_dec"], b_dec, threshold)


def fold_transcoder(
    weights: dict[str, Tensor],
    threshold: Tensor | None,
    of_input: tuple[Tensor, float],
    of_target: tuple[Tensor, float],
) -> dict[str, Tensor]:
    """`model_state` on raw activations of a transcoder's scaled weights: latents become f / scale of the target.

    of_input, of_target: mean [d] and scale of the two normalisers.
    """
    (mean, scale), (target_mean, target_scale) = of_input, of_target
    mean, ratio = mean.double(), scale / target_scale
    W_enc, W_skip = weights["W_enc"].double() * ratio, None
    b_enc = weights["b_enc"].double() / target_scale - W_enc @ mean
    b_dec = target_mean.double() + weights["b_dec"].double() / target_scale
    if "W_skip" in weights:
        W_skip = weights["W_skip"].double() * ratio
        b_dec = b_dec - W_skip @ mean
    threshold = None if threshold is None else threshold.double() / target_scale
    return model_state(W_enc, b_enc, weights["W_dec"], b_dec, threshold, W_skip, is_transcoder=True)


def unfold(model_state: dict[str, Tensor], mean: Tensor, scale: float) -> tuple[dict[str, Tensor], Tensor | None]:
    """The inverse of `fold`: scaled weights, float64, and the threshold [d_sae] in scaled space or None."""
    state = {name: tensor.double() for name, tensor in model_state.items()}
    weights = {
        "W_enc": state["encoder.weight"],
        "b_enc": state["encoder.bias"] * scale,
        "W_dec": state["decoder.weight"].T,
        "b_dec": (state["b_pre"] + state["decoder.bias"] - mean.double()) * scale,
    }
    return weights, state["threshold"] * scale if "threshold" in state else None


def unfold_transcoder(
    model_state: dict[str, Tensor], of_input: tuple[Tensor, float], of_target: tuple[Tensor, float]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The inverse of `fold_transcoder`, likewise."""
    (mean, scale), (target_mean, target_scale) = of_input, of_target
    state = {name: tensor.double() for name, tensor in model_state.items()}
    mean, ratio, b_dec = mean.double(), scale / target_scale, state["decoder.bias"]
    weights = {
        "W_enc": state["encoder.weight"] / ratio,
        "b_enc": (state["encoder.bias"] + state["encoder.weight"] @ mean) * target_scale,
        "W_dec": state["decoder.weight"].T,
    }
    if "skip.weight" in state:
        weights["W_skip"] = state["skip.weight"] / ratio
        b_dec = b_dec + state["skip.weight"] @ mean
    weights["b_dec"] = (b_dec - target_mean.double()) * target_scale
    return weights, state["threshold"] * target_scale if "threshold" in state else None


def model_state(
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    threshold: Tensor | None,
    W_skip: Tensor | None = None,
    is_transcoder: bool = False,
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, float32. W_enc, W_dec [d_sae, d_in]; threshold [d_sae] or None.

    Of a transcoder W_dec [d_sae, d_out] and W_skip [d_out, d_in] or None.
    """
    state = {"encoder.weight": W_enc, "encoder.bias": b_enc, "decoder.weight": W_dec.T, "decoder.bias": b_dec}
    if not is_transcoder:
        state = {"b_pre": b_dec, **state, "decoder.bias": torch.zeros_like(b_dec)}
    if W_skip is not None:
        state["skip.weight"] = W_skip
    if threshold is not None:
        state["threshold"] = threshold
    # Each tensor gets memory of its own, in one copy: here a wide decoder is transposed in memory.
    plain = {"dtype": torch.float32, "memory_format": torch.contiguous_format, "copy": True}
    return {name: tensor.detach().to(**plain) for name, tensor in state.items()}


def save(path: str | Path, model_state: dict[str, Tensor], config: dict, stats: dict) -> None:
    """Write a checkpoint. config: recipe, d_in, d_sae, ... and `record`; stats: plain numbers."""
    save_tensors(path, {"model_state": model_state, "config": config, "stats": stats})


def load_checkpoint(path: str | Path, remedy: str | None = None) -> dict:
    """`{model_state, config, stats}`, with sums, keys and shapes checked.

    remedy: what an error advises; by default to make the file again where a job of the workflow reads it, else to fetch it.
    Raises AtlasError with one line that names the file and the remedy.
    """
    remedy = remedy or (REMAKE if current_record() else FETCH)
    value = load_tensors(path, remedy)
    check_parts(path, value, remedy)
    return value


def check_parts(path: str | Path, value: dict, remedy: str) -> None:
    """Raise AtlasError unless `value` is an SAE: its parts, what its config must say, its tensors' names, shapes, dtype."""
    missing = {"model_state", "config", "stats"} - set(value)
    if missing:
        raise AtlasError(f"{path}: no checkpoint, it has no {', '.join(sorted(missing))}. {remedy}")
    state, config = value["model_state"], value["config"]
    if not isinstance(state, dict) or not isinstance(config, dict) or not isinstance(config.get("recipe"), dict):
        raise AtlasError(f"{path}: no checkpoint, its parts are of other kinds. {remedy}")
    recipe = config["recipe"]
    d_in, d_sae = config.get("d_in"), config.get("d_sae")
    kind = ARCHITECTURES.get(recipe.get("architecture"))
    k = recipe.get("k") if kind and kind.has_k else 1
    sizes = {"d_in": d_in, "d_sae": d_sae, "d_out": config.get("d_out", d_in)}
    if not kind or not all(type(number) is int and number > 0 for number in (*sizes.values(), k)):
        raise AtlasError(f"{path}: no checkpoint, its config lacks d_in, d_sae, a known architecture or k. {remedy}")
    if kind.inference == "pursuit" and "d_out" in config:
        raise AtlasError(f"{path}: no checkpoint, a transcoder of {recipe['architecture']} cannot be. {remedy}")
    norm = config.get("token_norm")
    if norm not in (None, *TOKEN_NORMS):
        raise AtlasError(f"{path}: token_norm {norm!r} is not known here; {nearest(norm, TOKEN_NORMS)}")
    shapes = OF_TRANSCODERS if "d_out" in config else SHAPES
    for name, sides in (shapes | {name: sides for name, sides in OPTIONAL.items() if name in state}).items():
        tensor, shape = state.get(name), tuple(sizes[side] for side in sides)
        tensor_shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else None
        if tensor_shape != shape:
            raise AtlasError(f"{path}: {name} has shape {tensor_shape}, expected {shape}. {remedy}")
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():  # strides of 0: few numbers for a large shape
            raise AtlasError(f"{path}: {name} is not plain float32 numbers. {remedy}")
