"""One file *.safetensors: the tensors of our checkpoint under their names, its config and statistics as JSON metadata."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.publish.formats.foreign import checked, read_safetensors
from sae_atlas.saes.checkpoint import check_parts
from sae_atlas.saes.sae import Sae

SHAPES = {
    "b_pre": ("d_in",),
    "encoder.weight": ("d_sae", "d_in"),
    "encoder.bias": ("d_sae",),
    "decoder.weight": ("d_in", "d_sae"),
    "decoder.bias": ("d_in",),
}


def write(folder: str | Path, sae: Sae, metadata: dict) -> None:
    """sae.safetensors in `folder`."""
    tensors = {
        "b_pre": sae.b_dec,
        "encoder.weight": sae.W_enc.T,
        "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec.T,
        "decoder.bias": sae.b_dec.new_zeros(sae.d_in),
        "threshold": sae.threshold,
    }
    normaliser = {"scale": sae.config["normaliser"]["scale"]}
    config = {**sae.config, "normaliser": normaliser}
    plain = {"config": config, "stats": sae.stats, "about": metadata}
    with atomic(Path(folder) / "sae.safetensors") as partial:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            partial,
            {name: json.dumps(value) for name, value in plain.items()},
        )


def read(path: str | Path) -> dict:
    """The checkpoint."""
    path = Path(path)
    tensors = read_safetensors(path)
    with safe_open(path, "pt") as file:
        plain = file.metadata() or {}
    if not {"config", "stats"} <= set(plain):
        raise AtlasError(f"{path}: not written by SAE Atlas; of another library's SAE name the folder")
    found = checked(path, tensors, SHAPES | {"threshold": ("d_sae",)})
    value = {"model_state": found, **{key: json.loads(plain[key]) for key in ("config", "stats")}}
    check_parts(path, value, "Fetch it again.")
    return value
