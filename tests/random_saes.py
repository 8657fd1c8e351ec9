"""A trained SAE of every architecture as the trainer leaves it: random weights through the real folding."""

import torch

from sae_atlas.config.read import complete_recipe
from sae_atlas.saes import architecture
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.architectures import ARCHITECTURES, users
from sae_atlas.saes.sae import Sae

D_IN, D_SAE = 16, 64
__all__ = ["ARCHITECTURES", "D_IN", "D_SAE", "activations", "random_checkpoint", "random_sae"]


def random_checkpoint(name: str) -> dict:
    """`{model_state, config, stats}` off-centre and scaled, so that a normaliser that is not folded in shows."""
    generator = torch.Generator().manual_seed(len(name))
    recipe = complete_recipe({"architecture": name, "expansion": 4} | ({"k": 5} if name in users("k") else {}))
    decoder = torch.randn(D_SAE, D_IN, generator=generator)
    weights = {
        "W_enc": torch.randn(D_SAE, D_IN, generator=generator),
        "b_enc": torch.randn(D_SAE, generator=generator) / 4,
        "W_dec": decoder / decoder.norm(dim=1, keepdim=True),
        "b_dec": torch.randn(D_IN, generator=generator) / 4,
        "threshold": torch.rand(D_SAE, generator=generator),
        "b_gate": torch.randn(D_SAE, generator=generator) / 4,
        "r_mag": torch.randn(D_SAE, generator=generator) / 4,
    }
    module, threshold = architecture(name), None
    if hasattr(module, "inference"):
        weights, threshold = module.inference(weights, 0.4)
    mean = 3 * torch.randn(D_IN, generator=generator)
    config = {
        "recipe": recipe,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "tokens": 120_000,
        "normaliser": {"mean": mean, "scale": 0.25},
        "activations": {"base_model": {"source": "hub owner/base-1b"}, "site": "resid_post", "layer": 3},
        "record": {"identity": "made for a test"},
    }
    return {
        "model_state": checkpoints.fold(weights, threshold, mean, 0.25),
        "config": config,
        "stats": {"steps": 3, "trained_tokens": 119_808},
    }


def random_sae(name: str) -> Sae:
    return Sae(**random_checkpoint(name))


def activations(rows: int = 200) -> torch.Tensor:
    """Raw ones, on the scale of the SAEs above."""
    return 4 * torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(1)) + 1
