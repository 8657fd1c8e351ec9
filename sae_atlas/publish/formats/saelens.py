"""SAELens 6: a folder with cfg.json and sae_weights.safetensors {W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec}."""

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

FILES = ("cfg.json", "sae_weights.safetensors")
VERSION = "6.0.0"  # of the format
SHAPES = {"W_enc": ("d_in", "d_sae"), "b_enc": ("d_sae",), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}


def write(folder: str | Path, sae: Sae, metadata: dict) -> None:
    """ReLU as `standard`, TopK as `topk`, all with a threshold as `jumprelu`."""
    folder = Path(folder)
    kind = {"topk": "topk", "relu": "standard", "threshold": "jumprelu"}[sae.inference]
    tensors = {"W_enc": sae.W_enc, "b_enc": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    if kind == "jumprelu":
        tensors["threshold"] = sae.threshold
    config = {
        "architecture": kind,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if kind == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    config["metadata"] = {"sae_lens_version": VERSION, "sae_lens_training_version": None, **metadata}
    with atomic(folder / FILES[1]) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    write_json(folder / FILES[0], config)


def read(folder: str | Path) -> dict:
    """The checkpoint. Raises AtlasError for a config that changes what the weights mean in a way we do not know."""
    folder = Path(folder)
    path, weights = folder / FILES[0], folder / FILES[1]
    config = read_config(path)
    if "metadata" not in config:
        raise AtlasError(f"{path}: written by SAELens before 6; load and save it with SAELens 6 first")
    kind = require(path, config, "architecture", ("standard", "topk", "jumprelu", "gated"))
    for key in ("normalize_activations", "reshape_activations"):
        require(path, config, key, ("none",))
    about = config["metadata"]
    shapes = dict(SHAPES)
    if kind == "jumprelu":
        shapes["threshold"] = ("d_sae",)
    if kind == "gated":
        shapes = {name: shape for name, shape in SHAPES.items() if name != "b_enc"}
        shapes |= {"b_gate": ("d_sae",), "b_mag": ("d_sae",), "r_mag": ("d_sae",)}
    found = checked(weights, read_safetensors(weights), shapes)
    encoder, decoder, threshold = found["W_enc"].T, found["W_dec"], found.get("threshold")
    bias = found.get("b_enc")
    if kind == "gated":
        encoder, bias, threshold = ungated(encoder, found["r_mag"], found["b_mag"], found["b_gate"])
    k = positive(path, config, "k") if kind == "topk" else None
    if kind == "topk" and config.get("rescale_acts_by_decoder_norm"):
        norms = decoder.norm(dim=1, keepdim=True)
        encoder, bias, decoder = encoder * norms, bias * norms[:, 0], decoder / norms
    return checkpoint(
        encoder,
        bias,
        decoder,
        found["b_dec"],
        "relu" if kind == "standard" else kind,
        k=k,
        threshold=threshold,
        centred=config.get("apply_b_dec_to_input", True),
        activations=place(about.get("hook_name")) | {"base_model": {"source": about.get("model_name")}},
        tokens=about.get("training_tokens"),
        stated=about,
    )


def ungated(encoder, r_mag, b_mag, b_gate):
    """(encoder, bias, threshold) of the JumpReLU that equals a Gated SAE (sae_atlas/saes/gated.py)."""
    gain = r_mag.exp()
    return encoder * gain[:, None], b_mag, b_mag - gain * b_gate
