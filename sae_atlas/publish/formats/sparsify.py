"""sparsify: a folder with cfg.json and sae.safetensors {encoder.weight, W_dec [d_sae, d_in], encoder.bias, b_dec}; TopK."""

from pathlib import Path

from safetensors.torch import save_file

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic, write_json
from sae_atlas.publish.formats.foreign import (
    checked,
    checkpoint,
    place,
    positive,
    read_config,
    read_safetensors,
    require,
)
from sae_atlas.saes.sae import Sae

FILES = ("cfg.json", "sae.safetensors")
SHAPES = {
    "encoder.weight": ("d_sae", "d_in"),
    "encoder.bias": ("d_sae",),
    "W_dec": ("d_sae", "d_in"),
    "b_dec": ("d_in",),
}


def write(folder: str | Path, sae: Sae, metadata: dict) -> None:
    """Raises AtlasError for other architectures than TopK: the library has no thresholds."""
    if sae.k is None:
        raise AtlasError(f"sparsify has TopK only, this SAE is {sae.architecture}; choose another format")
    folder = Path(folder)
    tensors = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    config = {
        "activation": "topk",
        "expansion_factor": sae.d_sae // sae.d_in,
        "normalize_decoder": True,
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
        "metadata": metadata,
    }
    with atomic(folder / FILES[1]) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    write_json(folder / FILES[0], config)


def read(folder: str | Path) -> dict:
    """The checkpoint. The hookpoint is the folder's name, as that library has it (`layers.3.mlp`)."""
    folder = Path(folder)
    path, weights = folder / FILES[0], folder / FILES[1]
    config = read_config(path)
    require(path, config, "activation", ("topk",))
    for key in ("skip_connection", "transcode", "signed"):  # which change what the weights compute
        require(path, config, key, (False,))
    found = checked(weights, read_safetensors(weights), SHAPES)
    about = config.get("metadata", {})
    return checkpoint(
        found["encoder.weight"],
        found["encoder.bias"],
        found["W_dec"],
        found["b_dec"],
        "topk",
        k=positive(path, config, "k"),
        activations=place(about.get("hook_name") or folder.name),
        tokens=about.get("training_tokens"),
        stated=config,
    )
