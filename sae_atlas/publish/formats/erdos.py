"""The published Pythia-410M runs: sae_layer{LL}_{SNAPSHOT}.pt {model_state, config, stats, optimizer_state}, bfloat16, ReLU.

z = ReLU(W_e (x - b_pre) + b_e), x_hat = W_d z + b_d + b_pre: both decoder biases are there. No normalisation.
"""

from pathlib import Path

from sae_atlas.io.errors import AtlasError, nearest
from sae_atlas.publish.formats.foreign import check_stated, checked, checkpoint
from sae_atlas.saes.checkpoint import load_tensors

KEYS = ("model_state", "config", "stats", "optimizer_state")
SHAPES = {
    "b_pre": ("d_in",),
    "encoder.weight": ("d_sae", "d_in"),
    "encoder.bias": ("d_sae",),
    "decoder.weight": ("d_in", "d_sae"),
    "decoder.bias": ("d_in",),
}


def read(path: str | Path) -> dict:
    """The checkpoint. Its L1 coefficient stays as stated: which mean it multiplies is published nowhere."""
    path = Path(path)
    value = load_tensors(path, "Fetch it again.")
    for key in sorted(set(value) - set(KEYS)):
        raise AtlasError(f"{path}: unknown key `{key}`; {nearest(key, KEYS)}")
    for key in ("model_state", "config"):
        if not isinstance(value.get(key), dict):
            raise AtlasError(f"{path}: has no `{key}`")
    config = value["config"]
    found = checked(path, value["model_state"], SHAPES)
    d_sae, d_in = found["encoder.weight"].shape
    check_stated(path, {"config.d_sae": config.get("d_sae"), "config.d_model": config.get("d_model")}, (d_sae, d_in))
    # The encoder reads x - b_pre, the decoder adds b_pre + b_d; ours has one bias for both.
    moved = found["encoder.weight"].double() @ found["decoder.bias"].double()
    return checkpoint(
        found["encoder.weight"],
        (found["encoder.bias"].double() + moved).float(),
        found["decoder.weight"].T,
        found["b_pre"] + found["decoder.bias"],
        "relu",
        activations={
            "base_model": {"source": config.get("model_name")},
            "site": "resid_post",
            "layer": config.get("target_layer"),
        },
        tokens=config.get("tokens_seen"),
        stated=config,
    )
