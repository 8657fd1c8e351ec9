"""Llama Scope: a folder with hyperparams.json and checkpoints/final.safetensors; and of R1-Distill, with config.json and
sae_weights.safetensors. JumpReLU; tensors {encoder.weight [d_sae, d_in], encoder.bias, decoder.weight, decoder.bias}.

They read f x, f = sqrt(d_in) / (mean norm of x in the corpus). The latent is z = W_enc f x + b_enc where z, or with
`sparsity_include_decoder_norm` z ||W_dec_j||, is above the threshold (as in Language-Model-SAEs, which trained them).
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sae_atlas.config.layouts import LAYOUTS
from sae_atlas.config.published import PAIRS, stated_sizes
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import (
    check_stated,
    checkpoint,
    read_config,
    read_safetensors,
    require,
    scaled,
    site_and_layer,
    weights,
)

NORM = "dataset_average_activation_norm"
# Keys that say what the weights compute, with the values that are computed here; all others are about training.
ONLY = {
    "sae_type": ("sae",),
    "act_fn": ("jumprelu",),
    "norm_activation": ("dataset-wise",),
    "use_decoder_bias": (True,),
    "apply_decoder_bias_to_pre_encoder": (False,),
    "use_glu_encoder": (False,),
    "sparsity_include_decoder_norm": (True, False),
}


def read(folder: str | Path, kind: str) -> dict:
    """The checkpoint of `llama_scope` or `llama_scope_r1_distill`. Raises AtlasError for other ways to compute latents."""
    folder = Path(folder)
    path, file = (folder / name for name in PAIRS[kind])
    config, tensors = read_config(path), read_safetensors(file)
    for key, allowed in ONLY.items():
        require(path, config, key, allowed)
    hook = config.get("hook_point_in")
    if config.get("hook_point_out", hook) != hook:
        raise AtlasError(
            f"{path}: is a transcoder, it predicts {config['hook_point_out']!r}; only SAEs of the release are read"
        )
    if kind == "llama_scope":
        norm = (config.get(NORM) or {}).get("in")
    else:
        norms = [tensors.pop(name) for name in list(tensors) if name.startswith(f"{NORM}.")]
        norm = float(norms[0]) if len(norms) == 1 else None
    if not isinstance(norm, int | float) or not 0 < norm < float("inf"):
        raise AtlasError(f"{path}: the mean norm of the activations is {norm!r}, not a number above 0; fetch it again")
    tensors = weights(file, tensors, LAYOUTS[kind])
    check_stated(path, stated_sizes(kind, config), tensors["W_enc"].shape)
    d_sae, d_in = tensors["W_enc"].shape
    factor = d_in**0.5 / norm
    if kind == "llama_scope":
        # Stated for z / f.
        threshold = torch.full((d_sae,), _number(path, config, "jump_relu_threshold") * factor)
    else:
        threshold = tensors["threshold"].exp()
    if config.get("sparsity_include_decoder_norm", True):
        threshold = _divided(threshold, tensors["W_dec"].norm(dim=1))
    return checkpoint(
        **scaled(tensors, factor) | {"threshold": threshold},
        architecture="jumprelu",
        centred=False,
        activations=site_and_layer(path, "hook_point_in", hook),
        stated=config,
    )


def _number(path: Path, config: dict, key: str) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AtlasError(f"{path}: {key} is {value!r}, not a number; fetch it again")
    return float(value)


def _divided(threshold: Tensor, norms: Tensor) -> Tensor:
    """threshold / norms; a latent that decodes to nothing is never active."""
    return (threshold / norms).clamp(max=torch.finfo(threshold.dtype).max)


READERS = {kind: partial(read, kind=kind) for kind in ("llama_scope", "llama_scope_r1_distill")}
