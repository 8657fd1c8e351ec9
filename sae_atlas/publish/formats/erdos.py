"""The published Pythia-410M runs: sae_layer{LL}_{SNAPSHOT}.pt {model_state, config, stats, optimizer_state}, bfloat16, ReLU.

z = ReLU(W_e (x - b_pre) + b_e), x_hat = W_d z + b_d + b_pre: both decoder biases are there. No normalisation.
"""

from pathlib import Path

from sae_atlas.io.errors import AtlasError, nearest
from sae_atlas.publish.formats.foreign import check_stated, checked, checkpoint
from sae_atlas.saes.checkpoint import SHAPES, load_tensors

KEYS = ("model_state", "config", "stats", "optimizer_state")


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
    tensors = checked(path, value["model_state"], SHAPES)
    d_sae, d_in = tensors["encoder.weight"].shape
    check_stated(path, {"config.d_sae": config.get("d_sae"), "config.d_model": config.get("d_model")}, (d_sae, d_in))
    # The encoder reads x - b_pre and the decoder adds b_pre + b_d; a checkpoint here has one bias for both.
    added = tensors["encoder.weight"].double() @ tensors["decoder.bias"].double()
    return checkpoint(
        tensors["encoder.weight"],
        (tensors["encoder.bias"].double() + added).float(),
        tensors["decoder.weight"].T,
        tensors["b_pre"] + tensors["decoder.bias"],
        "relu",
        activations={
            "base_model": {"source": config.get("model_name")},
            "site": "resid_post",
            "layer": config.get("target_layer"),
        },
        tokens=config.get("tokens_seen"),
        stated=config,
    )
