"""Transcoders of every architecture and a release of them: random weights as checkpoints hold them."""

from pathlib import Path

import torch
from random_saes import D_IN, D_SAE

from sae_atlas.config.read import complete_recipe
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.architectures import ARCHITECTURES, users

BASE_MODEL = {"source": "hub owner/base-1b"}


def save_transcoder(
    path: Path, name: str, layer: int, skip=False, d_sae=D_SAE, site="mlp_in", target: str | None = "mlp_out"
) -> dict:
    """Write a checkpoint of architecture `name` and return it; an SAE if it has no `target`."""
    generator = torch.Generator().manual_seed(layer)
    state = {
        "encoder.weight": torch.randn(d_sae, D_IN, generator=generator),
        "encoder.bias": torch.randn(d_sae, generator=generator),
        "decoder.weight": torch.randn(D_IN, d_sae, generator=generator),
        "decoder.bias": torch.randn(D_IN, generator=generator),
    }
    if ARCHITECTURES[name].inference == "threshold":
        state["threshold"] = torch.randn(d_sae, generator=generator)  # those of Gated may be negative
    if skip:
        state["skip.weight"] = torch.randn(D_IN, D_IN, generator=generator)
    recipe = complete_recipe({"architecture": name, "expansion": 4} | ({"k": 5} if name in users("k") else {}))
    activations = {"base_model": BASE_MODEL, "site": site, "layer": layer}
    config = {"recipe": recipe, "d_in": D_IN, "d_sae": d_sae, "activations": activations}
    if target is None:
        state["b_pre"] = torch.zeros(D_IN)
    else:
        config["d_out"], activations["target"] = D_IN, target
    checkpoint = {"model_state": state, "config": config, "stats": {}}
    checkpoints.save(path, **checkpoint)
    return checkpoint


def save_release(folder: Path, name: str, layers: int = 3, **how) -> list[dict]:
    """Final checkpoints of all layers in `folder`."""
    files = [folder / f"sae_layer{layer:02d}_final.pt" for layer in range(layers)]
    return [save_transcoder(file, name, layer, **how) for layer, file in enumerate(files)]
