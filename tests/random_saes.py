"""A trained SAE or transcoder of every architecture as the trainer leaves it: random weights through the real folding."""

import torch

from sae_atlas.config.read import complete_recipe
from sae_atlas.saes import architecture
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.architectures import ARCHITECTURES, users
from sae_atlas.saes.sae import Sae

D_IN, D_SAE, D_OUT = 16, 64, 12
STATS = {"steps": 3, "trained_tokens": 119_808}
WITH_ENCODER = [
    name for name, kind in ARCHITECTURES.items() if kind.inference != "pursuit"
]  # transcoders have these alone
__all__ = [
    "ARCHITECTURES",
    "D_IN",
    "D_OUT",
    "D_SAE",
    "WITH_ENCODER",
    "activations",
    "random_checkpoint",
    "random_sae",
    "random_transcoder",
    "sae_of_model",
    "transcoder_checkpoint",
]


def random_checkpoint(name: str) -> dict:
    """`{model_state, config, stats}` off-centre and scaled, so that a normaliser that is not folded in shows."""
    generator = torch.Generator().manual_seed(len(name))
    weights, threshold = _inference(name, generator, D_IN)
    mean = 3 * torch.randn(D_IN, generator=generator)
    return {
        "model_state": checkpoints.fold(weights, threshold, mean, 0.25),
        "config": _config(name, {"mean": mean, "scale": 0.25}, {"site": "resid_post"}),
        "stats": dict(STATS),
    }


def transcoder_checkpoint(name: str, skip: bool = False, d_out: int = D_OUT) -> dict:
    """As random_checkpoint, of a transcoder from mlp_in [D_IN] to mlp_out [d_out]."""
    generator = torch.Generator().manual_seed(len(name))
    weights, threshold = _inference(name, generator, d_out)
    if skip:
        weights["W_skip"] = torch.randn(d_out, D_IN, generator=generator)
    mean, target_mean = 3 * torch.randn(D_IN, generator=generator), torch.randn(d_out, generator=generator)
    normaliser = {"mean": mean, "scale": 0.25, "target_mean": target_mean, "target_scale": 0.5}
    config = _config(name, normaliser, {"site": "mlp_in", "target": "mlp_out"}, **({"skip": True} if skip else {}))
    return {
        "model_state": checkpoints.fold_transcoder(weights, threshold, (mean, 0.25), (target_mean, 0.5)),
        "config": config | {"d_out": d_out},
        "stats": dict(STATS),
    }


def _inference(name: str, generator: torch.Generator, d_out: int) -> tuple[dict, torch.Tensor | None]:
    """Scaled weights and threshold at inference; they decode to d_out dimensions."""
    decoder = torch.randn(D_SAE, d_out, generator=generator)
    weights = {
        "W_enc": torch.randn(D_SAE, D_IN, generator=generator),
        "b_enc": torch.randn(D_SAE, generator=generator) / 4,
        "W_dec": decoder / decoder.norm(dim=1, keepdim=True),
        "b_dec": torch.randn(d_out, generator=generator) / 4,
        "threshold": torch.rand(D_SAE, generator=generator),
        "b_gate": torch.randn(D_SAE, generator=generator) / 4,
        "r_mag": torch.randn(D_SAE, generator=generator) / 4,
    }
    module, threshold = architecture(name), None
    if hasattr(module, "inference"):
        weights, threshold = module.inference(weights, 0.4)
    return weights, threshold


def _config(name: str, normaliser: dict, sites: dict, **keys) -> dict:
    recipe = {"architecture": name, "expansion": 4, **({"k": 5} if name in users("k") else {}), **keys}
    return {
        "recipe": complete_recipe(recipe),
        "d_in": D_IN,
        "d_sae": D_SAE,
        "tokens": 120_000,
        "normaliser": normaliser,
        "activations": {"base_model": {"source": "hub owner/base-1b"}, **sites, "layer": 3},
        "record": {"identity": "made for a test"},
    }


def random_sae(name: str) -> Sae:
    return Sae(**random_checkpoint(name))


def random_transcoder(name: str, skip: bool = False, d_out: int = D_OUT) -> Sae:
    return Sae(**transcoder_checkpoint(name, skip, d_out))


def activations(rows: int = 200) -> torch.Tensor:
    """Raw ones, on the scale of the SAEs above."""
    return 4 * torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(1)) + 1


def sae_of_model(site: str = "resid_post", layer: int = 1, target: str | None = None, d: int = 32) -> Sae:
    """Of a site of the random models (models.random_model), in their float64; a transcoder with a skip if it has a target."""
    generator = torch.Generator().manual_seed(layer)
    state = {
        "encoder.weight": torch.randn(2 * d, d, generator=generator),
        "encoder.bias": torch.zeros(2 * d),
        "decoder.weight": torch.randn(d, 2 * d, generator=generator) / d,
        "decoder.bias": torch.zeros(d),
    }
    config = {"recipe": {"architecture": "relu"}, "activations": {"base_model": {}, "site": site, "layer": layer}}
    if target is None:
        state["b_pre"] = torch.zeros(d)
    else:
        state["skip.weight"] = torch.randn(d, d, generator=generator) / d
        config["activations"]["target"], config["d_out"] = target, d
    return Sae(state, config).to(torch.float64)
