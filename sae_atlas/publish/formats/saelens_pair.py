"""The pair of files that SAELens 6 loads (saelens.py), from arrays. Without torch: every card has one beside it."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from sae_atlas.config.published import PAIRS
from sae_atlas.io.files import atomic, write_json
from sae_atlas.saes.architectures import ARCHITECTURES

FILES = PAIRS["saelens"]
VERSION = "6.0.0"  # of the format
PURSUIT = "matching_pursuit"
NEVER_EARLY = {
    "residual_threshold": 0.0,
    "stop_on_duplicate_support": False,
}  # a token always gets max_iterations latents
# architecture of a transcoder -> (that of the SAE with its activation function, has it a skip connection?). SAELens has none
# with TopK: a pair is written all the same, for every published folder has one, and SAELens refuses it by its name.
TRANSCODERS = {
    "transcoder": ("standard", False),
    "skip_transcoder": ("standard", True),
    "jumprelu_transcoder": ("jumprelu", False),
    "jumprelu_skip_transcoder": ("jumprelu", True),
    "topk_transcoder": ("topk", False),
    "topk_skip_transcoder": ("topk", True),
}


def write_checkpoint(folder: str | Path, state: dict[str, np.ndarray], config: dict, metadata: dict) -> None:
    """The pair of a checkpoint: its `model_state` as arrays, and its config. Weights as `saes.sae.Sae` has them."""
    arrays = {
        "W_enc": state["encoder.weight"].T,
        "b_enc": state["encoder.bias"],
        "W_dec": state["decoder.weight"].T,
        "b_dec": state["decoder.bias"] + state.get("b_pre", 0),
        "threshold": state.get("threshold", np.zeros_like(state["encoder.bias"])),
    }
    if "skip.weight" in state:
        arrays["W_skip"] = state["skip.weight"]
    inference = ARCHITECTURES[config["recipe"]["architecture"]].inference
    k, token_norm = config["recipe"].get("k"), config.get("token_norm")
    write_pair(folder, arrays, inference, k, metadata, "d_out" in config, token_norm)


def write_pair(
    folder: str | Path,
    arrays: dict[str, np.ndarray],
    inference: str,
    k: int | None,
    metadata: dict,
    is_transcoder: bool,
    token_norm: str | None = None,
) -> None:
    """ReLU as `standard`, TopK as `topk`, matching pursuit by its name, all with a threshold as `jumprelu`; transcoders as in
    TRANSCODERS.

    arrays: W_enc [d_in, d_sae], b_enc, ... as `saes.sae.Sae` has them; W_skip where there is one. token_norm: of
    saes/token_norm.py; SAELens centres activations by its model, of which the metadata then says so.
    """
    folder = Path(folder)
    kind = {"topk": "topk", "relu": "standard", "threshold": "jumprelu", "pursuit": PURSUIT}[inference]
    d_in, d_sae = arrays["W_enc"].shape
    not_in_it = {"jumprelu": (), PURSUIT: ("W_enc", "b_enc", "threshold")}.get(kind, ("threshold",))
    arrays = {name: array for name, array in arrays.items() if name not in not_in_it}
    names = {of_transcoder: name for name, of_transcoder in TRANSCODERS.items()}
    config = {
        "architecture": names[kind, "W_skip" in arrays] if is_transcoder else kind,
        "d_in": d_in,
        "d_sae": d_sae,
        **({"d_out": len(arrays["b_dec"])} if is_transcoder else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not is_transcoder,
        "normalize_activations": "none" if token_norm in (None, "centre") else token_norm,
        "reshape_activations": "none",
    }
    if kind == "topk":
        config |= {"k": k, "rescale_acts_by_decoder_norm": False}
    if kind == PURSUIT:
        config |= {"max_iterations": k, **NEVER_EARLY}
    if token_norm == "centre":
        settings = metadata.get("model_from_pretrained_kwargs") or {}
        metadata = {**metadata, "model_from_pretrained_kwargs": {**settings, "center_writing_weights": True}}
    config["metadata"] = {"sae_lens_version": VERSION, "sae_lens_training_version": None, **metadata}
    with atomic(folder / FILES[1]) as partial:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
    write_json(folder / FILES[0], config)
