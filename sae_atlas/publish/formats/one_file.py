"""One file *.safetensors: the tensors of our checkpoint under their names, its config and statistics as JSON metadata."""

import json
from pathlib import Path

from safetensors import safe_open

from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import checked, read_safetensors, write_safetensors
from sae_atlas.saes.checkpoint import OF_TRANSCODERS, OPTIONAL, SHAPES, check_parts, model_state
from sae_atlas.saes.sae import Sae


def write(folder: str | Path, sae: Sae, metadata: dict) -> None:
    """sae.safetensors in `folder`."""
    weights = (sae.W_enc.T, sae.b_enc, sae.W_dec, sae.b_dec, sae.threshold, sae.W_skip)
    tensors = model_state(*weights, is_transcoder=sae.is_transcoder)
    normaliser = {"scale": sae.config["normaliser"]["scale"]}
    config = {**sae.config, "normaliser": normaliser}
    plain = {"config": config, "stats": sae.stats, "about": metadata}
    json_metadata = {name: json.dumps(value) for name, value in plain.items()}
    write_safetensors(Path(folder) / "sae.safetensors", tensors, json_metadata)


def read(path: str | Path) -> dict:
    """The checkpoint."""
    path = Path(path)
    tensors = read_safetensors(path)
    with safe_open(path, "pt") as file:
        plain = file.metadata() or {}
    if not {"config", "stats"} <= set(plain):
        raise AtlasError(f"{path}: not written by SAE Atlas; of another library's SAE name the folder")
    about = {key: json.loads(plain[key]) for key in ("config", "stats")}
    shapes = (OF_TRANSCODERS if "d_out" in about["config"] else SHAPES) | {"threshold": OPTIONAL["threshold"]}
    if about["config"]["recipe"].get("skip"):
        shapes |= {"skip.weight": OPTIONAL["skip.weight"]}
    value = {"model_state": checked(path, tensors, shapes), **about}
    check_parts(path, value, "Fetch it again.")
    return value
