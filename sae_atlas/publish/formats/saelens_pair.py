"""The pair of files that SAELens 6 loads (saelens.py), from arrays. Without torch: every card has one beside it."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from sae_atlas.config.published import PAIRS
from sae_atlas.io.files import atomic, write_json
from sae_atlas.saes.architectures import ARCHITECTURES

FILES = PAIRS["saelens"]
VERSION = "6.0.0"  # of the format


def write_checkpoint(folder: str | Path, state: dict[str, np.ndarray], config: dict, metadata: dict) -> None:
    """The pair of a checkpoint: its `model_state` as arrays, and its config. Weights as `saes.sae.Sae` has them."""
    arrays = {
        "W_enc": state["encoder.weight"].T,
        "b_enc": state["encoder.bias"],
        "W_dec": state["decoder.weight"].T,
        "b_dec": state["b_pre"] + state["decoder.bias"],
        "threshold": state.get("threshold", np.zeros_like(state["encoder.bias"])),
    }
    inference = ARCHITECTURES[config["recipe"]["architecture"]].inference
    write_pair(folder, arrays, inference, config["recipe"].get("k"), metadata)


def write_pair(
    folder: str | Path, arrays: dict[str, np.ndarray], inference: str, k: int | None, metadata: dict
) -> None:
    """ReLU as `standard`, TopK as `topk`, all with a threshold as `jumprelu`. arrays: W_enc [d_in, d_sae], b_enc, ..."""
    folder = Path(folder)
    kind = {"topk": "topk", "relu": "standard", "threshold": "jumprelu"}[inference]
    if kind != "jumprelu":
        arrays = {name: array for name, array in arrays.items() if name != "threshold"}
    d_in, d_sae = arrays["W_enc"].shape
    config = {
        "architecture": kind,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if kind == "topk":
        config |= {"k": k, "rescale_acts_by_decoder_norm": False}
    config["metadata"] = {"sae_lens_version": VERSION, "sae_lens_training_version": None, **metadata}
    with atomic(folder / FILES[1]) as partial:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
    write_json(folder / FILES[0], config)
