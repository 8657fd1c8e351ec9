"""dictionary_learning: a folder with ae.pt, whose tensors differ by class, and config.json {trainer: {dict_class, ...}}."""

import re
from pathlib import Path

import torch

from sae_atlas.config.published import PAIRS, stated_sizes
from sae_atlas.io.errors import AtlasError, nearest
from sae_atlas.io.files import write_json
from sae_atlas.publish.formats.foreign import (
    active,
    check_stated,
    checked,
    checkpoint,
    read_config,
    refuse_beyond_weights,
    require,
    site_and_layer,
)
from sae_atlas.publish.formats.hooks import hook_name
from sae_atlas.publish.formats.saelens import SHAPES, ungated
from sae_atlas.saes.checkpoint import load_tensors, save_tensors
from sae_atlas.saes.sae import Sae
from sae_atlas.sites import SITES

FILES = PAIRS["dictionary_learning"]
LINEAR = {"encoder.weight": ("d_sae", "d_in"), "encoder.bias": ("d_sae",), "decoder.weight": ("d_in", "d_sae")}
LATER = {"k": (), "threshold": (), "group_sizes": ("groups",)}  # tensors of TopK that the first releases did not have
SUBMODULE = re.compile(rf"(?:blocks\.(\d+)\.)?({'|'.join(SITES)})(?:_layer_?(\d+))?")  # names of a site that are in use
INPUTS = ("resid_pre", "resid_mid", "mlp_in")
GATES = {"r_mag": ("d_sae",), "gate_bias": ("d_sae",), "mag_bias": ("d_sae",)}
# class -> (its tensors, the name of its decoder bias, does its encoder read x - that bias?)
CLASSES = {
    "AutoEncoder": (LINEAR | {"bias": ("d_in",)}, "bias", True),
    "AutoEncoderNew": (LINEAR | {"decoder.bias": ("d_in",)}, "decoder.bias", False),
    "AutoEncoderTopK": (LINEAR | {"b_dec": ("d_in",)}, "b_dec", True),
    "BatchTopKSAE": (LINEAR | {"b_dec": ("d_in",)} | {"threshold": ()}, "b_dec", True),
    "MatryoshkaBatchTopKSAE": (SHAPES | {"threshold": ()}, "b_dec", True),
    "JumpReluAutoEncoder": (SHAPES | {"threshold": ("d_sae",)}, "b_dec", False),
    "GatedAutoEncoder": (
        {name: shape for name, shape in LINEAR.items() if name != "encoder.bias"} | GATES | {"decoder_bias": ("d_in",)},
        "decoder_bias",
        True,
    ),
}


def write(folder: str | Path, sae: Sae, metadata: dict) -> None:
    """TopK as AutoEncoderTopK, ReLU as AutoEncoderNew, all with a threshold as JumpReluAutoEncoder.

    The last two encode x itself, so the decoder bias moves into the encoder's. Raises AtlasError for a transcoder.
    """
    if sae.is_transcoder:
        raise AtlasError(
            "dictionary_learning has SAEs only, this is a transcoder; choose saelens, sparsify or safetensors"
        )
    refuse_beyond_weights(sae, "dictionary_learning")
    if sae.inference == "pursuit":
        raise AtlasError("dictionary_learning has no matching pursuit; choose saelens or safetensors")
    folder = Path(folder)
    bias = (sae.b_enc.double() - sae.b_dec.double() @ sae.W_enc.double()).float()
    if sae.inference == "topk":
        kind, tensors = "AutoEncoderTopK", _linear(sae, sae.b_enc) | {"b_dec": sae.b_dec}
        tensors |= {"k": torch.tensor(sae.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
    elif sae.inference == "relu":
        kind, tensors = "AutoEncoderNew", _linear(sae, bias) | {"decoder.bias": sae.b_dec}
    else:
        kind = "JumpReluAutoEncoder"
        tensors = {
            "W_enc": sae.W_enc,
            "b_enc": bias,
            "W_dec": sae.W_dec,
            "b_dec": sae.b_dec,
            "threshold": sae.threshold,
        }
    trainer = {
        "dict_class": kind,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "k": sae.k,
        "layer": metadata.get("hook_layer"),
        "lm_name": metadata.get("model_name"),
        "submodule_name": metadata.get("site"),
    }
    save_tensors(folder / FILES[1], {name: tensor.contiguous() for name, tensor in tensors.items()})
    write_json(folder / FILES[0], {"trainer": trainer, "buffer": {}, "metadata": metadata})


def _linear(sae: Sae, bias) -> dict:
    return {"encoder.weight": sae.W_enc.T, "encoder.bias": bias, "decoder.weight": sae.W_dec.T}


def read(folder: str | Path) -> dict:
    """The checkpoint. BatchTopK and Matryoshka become what they are at inference: a JumpReLU of one threshold.

    A trainer's keys depend on its training; how the tensors are used is in `dict_class`. Activations
    that were scaled (`norm_factor`) are scaled back in the biases before they are written.
    """
    folder = Path(folder)
    path, weights = folder / FILES[0], folder / FILES[1]
    config = read_config(path)
    trainer = config.get("trainer")
    kind = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if kind not in CLASSES:
        raise AtlasError(f"{path}: trainer.dict_class {kind!r} is not supported; {nearest(kind, CLASSES)}")
    where = _site_and_layer(path, trainer)
    # `in` is the input of a module that is named after its output, `in_and_out` predicts one from the other.
    require(path, config.get("buffer") or {}, "io", ("out", "in") if where.get("site") in INPUTS else ("out",))
    shapes, bias, centred = CLASSES[kind]
    tensors = checked(weights, load_tensors(weights, "Fetch it again."), shapes, LATER if "TopK" in kind else None)
    plain = "W_enc" in shapes
    encoder = tensors["W_enc"].T if plain else tensors["encoder.weight"]
    decoder = tensors["W_dec"] if plain else tensors["decoder.weight"].T
    encoder_bias, threshold = tensors.get("b_enc" if plain else "encoder.bias"), tensors.get("threshold")
    if kind == "GatedAutoEncoder":
        encoder, encoder_bias, threshold = ungated(encoder, tensors["r_mag"], tensors["mag_bias"], tensors["gate_bias"])
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        threshold = threshold.expand(len(encoder))
    architecture = {"AutoEncoder": "relu", "AutoEncoderNew": "relu", "AutoEncoderTopK": "topk"}.get(kind, "jumprelu")
    check_stated(path, stated_sizes("dictionary_learning", config), decoder.shape)
    if "k" in tensors:
        check_stated(path, {"trainer.k": trainer.get("k")}, [int(tensors["k"])])
        trainer = {**trainer, "k": int(tensors["k"])}
    return checkpoint(
        encoder,
        encoder_bias,
        decoder,
        tensors[bias],
        architecture,
        k=active(path, trainer, "k", len(decoder)) if architecture == "topk" else None,
        threshold=threshold if architecture == "jumprelu" else None,
        centred=centred,
        activations={"base_model": {"source": trainer.get("lm_name")}} | where,
        tokens=config.get("metadata", {}).get("training_tokens"),
        stated=trainer,
    )


def _site_and_layer(path: Path, trainer: dict) -> dict:
    name, layer = trainer.get("submodule_name"), trainer.get("layer")
    said = SUBMODULE.fullmatch(str(name))
    number = said and (said[1] or said[3])
    if said and number is None:
        return {"site": said[2], "layer": layer}
    return site_and_layer(path, "trainer.submodule_name", hook_name(said[2], int(number)) if said else name, layer)
