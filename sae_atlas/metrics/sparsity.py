"""How sparse the latents are: L0, density, dead and alive latents."""

import torch
from torch import Tensor


def l0(latents: Tensor) -> Tensor:
    """Active latents of every token, [tokens]: entries of [tokens, d_sae] that are not 0."""
    return (latents != 0).sum(dim=1)


def firing_counts(latents: Tensor) -> Tensor:
    """Tokens on which each latent fires, [d_sae]. Divided by the tokens seen: its density."""
    return (latents != 0).sum(dim=0)


def dead(counts: Tensor) -> int:
    """Latents that never fired in the tokens counted. Meaningless without that number of tokens beside it."""
    return int((counts == 0).sum())


def median(counts: Tensor) -> float:
    """Median over tokens of the L0."""
    return float(torch.median(counts.double()))
