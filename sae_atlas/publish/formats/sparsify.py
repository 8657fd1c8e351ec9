"""sparsify: a folder with cfg.json and sae.safetensors {encoder.weight, W_dec [d_sae, d_in], encoder.bias, b_dec}; TopK.

With `transcode` it is a transcoder, from a module's input to its output, of the same dimensions; W_skip [d_in, d_in].
"""

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
    refuse_beyond_weights,
    refuse_unknown,
    require,
    site_and_layer,
    with_target,
    write_safetensors,
)
from sae_atlas.publish.formats.hooks import input_of, parse_hook
from sae_atlas.saes.sae import Sae

FILES = PAIRS["sparsify"]
SHAPES = {
    "encoder.weight": ("d_sae", "d_in"),
    "encoder.bias": ("d_sae",),
    "W_dec": ("d_sae", "d_in"),
    "b_dec": ("d_in",),
}
KIND = ("activation", "transcode", "skip_connection", "signed")  # keys of cfg.json that say what the weights compute
SIZES = ("k", "d_in", "num_latents", "expansion_factor")
# Keys that change nothing afterwards: how the decoder was held while training, a loss, the weights' own dtype, what we add.
HARMLESS = ("normalize_decoder", "multi_topk", "dtype", "metadata")


def write(folder: str | Path, sae: Sae, metadata: dict) -> None:
    """Raises AtlasError for other architectures than TopK, as the library has no thresholds, and where d_out is not d_in."""
    if sae.inference != "topk":
        raise AtlasError(f"sparsify has TopK only, this {sae.kind} is {sae.architecture}; choose another format")
    if sae.d_out != sae.d_in:
        raise AtlasError(
            f"sparsify's transcoders predict as many dimensions as they read, this one reads {sae.d_in} and predicts "
            f"{sae.d_out}; choose safetensors"
        )
    refuse_beyond_weights(sae, "sparsify")
    folder = Path(folder)
    tensors = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip
    config = {
        "activation": "topk",
        "expansion_factor": sae.d_sae // sae.d_in,
        "normalize_decoder": True,
        "num_latents": sae.d_sae,
        "k": sae.k,
        "multi_topk": False,
        "skip_connection": sae.W_skip is not None,
        "transcode": sae.is_transcoder,
        "d_in": sae.d_in,
        "metadata": metadata,
    }
    write_safetensors(folder / FILES[1], tensors)
    write_json(folder / FILES[0], config)


def read(folder: str | Path) -> dict:
    """The checkpoint. The hookpoint, a module, is the folder's name, as that library has it (`layers.3.mlp`)."""
    folder = Path(folder)
    path, weights = folder / FILES[0], folder / FILES[1]
    config = read_config(path)
    require(path, config, "activation", ("topk",))
    require(path, config, "signed", (False,))
    is_transcoder = require(path, config, "transcode", (False, True))
    has_skip = require(path, config, "skip_connection", (False, True) if is_transcoder else (False,))
    refuse_unknown(path, config, (*KIND, *SIZES, *HARMLESS))
    shapes = SHAPES | ({"W_skip": ("d_in", "d_in")} if has_skip else {})
    tensors = checked(weights, read_safetensors(weights), shapes)
    check_stated(path, stated_sizes("sparsify", config), tensors["W_dec"].shape)
    about = config.get("metadata") or {}
    module = folder.name if parse_hook(folder.name) else None  # others may have renamed it
    if is_transcoder:
        read = about.get("hook_name") or (module and input_of(module))
        predicted = about.get("hook_name_out") or module
        activations = with_target(path, "hook_name_out", predicted, site_and_layer(path, "hook_name", read))
    else:
        activations = site_and_layer(path, "hook_name", about.get("hook_name") or module)
    return checkpoint(
        tensors["encoder.weight"],
        tensors["encoder.bias"],
        tensors["W_dec"],
        tensors["b_dec"],
        "topk",
        k=active(path, config, "k", len(tensors["W_dec"])),
        is_transcoder=is_transcoder,
        W_skip=tensors.get("W_skip"),
        activations=activations,
        tokens=about.get("training_tokens"),
        stated=config,
    )
