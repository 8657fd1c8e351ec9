"""sparsify: a folder with cfg.json and sae.safetensors {encoder.weight, W_dec [d_sae, d_in], encoder.bias, b_dec}; TopK."""

from pathlib import Path

from sae_atlas.config.published import PAIRS, stated_sizes
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.publish.formats.foreign import (
    active,
    check_stated,
    checked,
    checkpoint,
    read_config,
    read_safetensors,
    refuse_unknown,
    require,
    site_and_layer,
    write_safetensors,
)
from sae_atlas.publish.formats.hooks import parse_hook
from sae_atlas.saes.sae import Sae

FILES = PAIRS["sparsify"]
SHAPES = {
    "encoder.weight": ("d_sae", "d_in"),
    "encoder.bias": ("d_sae",),
    "W_dec": ("d_sae", "d_in"),
    "b_dec": ("d_in",),
}
UNLESS_FALSE = ("skip_connection", "transcode", "signed")  # keys of cfg.json that change what the weights compute
SIZES = ("k", "d_in", "num_latents", "expansion_factor")
# Keys that change nothing afterwards: how the decoder was held while training, a loss, the weights' own dtype, what we add.
HARMLESS = ("normalize_decoder", "multi_topk", "dtype", "metadata")


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
    write_safetensors(folder / FILES[1], tensors)
    write_json(folder / FILES[0], config)


def read(folder: str | Path) -> dict:
    """The checkpoint. The hookpoint is the folder's name, as that library has it (`layers.3.mlp`)."""
    folder = Path(folder)
    path, weights = folder / FILES[0], folder / FILES[1]
    config = read_config(path)
    require(path, config, "activation", ("topk",))
    for key in UNLESS_FALSE:
        require(path, config, key, (False,))
    refuse_unknown(path, config, ("activation", *UNLESS_FALSE, *SIZES, *HARMLESS))
    tensors = checked(weights, read_safetensors(weights), SHAPES)
    check_stated(path, stated_sizes("sparsify", config), tensors["W_dec"].shape)
    about = config.get("metadata") or {}
    hook = about.get("hook_name") or (folder.name if parse_hook(folder.name) else None)  # others may have renamed it
    return checkpoint(
        tensors["encoder.weight"],
        tensors["encoder.bias"],
        tensors["W_dec"],
        tensors["b_dec"],
        "topk",
        k=active(path, config, "k", len(tensors["W_dec"])),
        activations=site_and_layer(path, "hook_name", hook),
        tokens=about.get("training_tokens"),
        stated=config,
    )
