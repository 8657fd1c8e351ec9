"""How sparse the latents are: L0, density, activation rate, dead and alive latents."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sae_atlas.metrics.active import Active


def l0(active: "Active") -> "Tensor":
    """Active latents of every token, [tokens]: entries of [tokens, d_sae] that are not 0."""
    return active.per_token()


def firing_counts(active: "Active") -> "Tensor":
    """Tokens on which each latent fires, [d_sae]."""
    return active.per_latent()


def density(counts: "Tensor", tokens: int) -> "Tensor":
    """Share of the tokens on which each latent fires, [d_sae] in float64; 0 (dead on these tokens) to 1. Unitless."""
    return counts.double() / tokens


def dead(counts: "Tensor") -> int:
    """Latents that never fired in the tokens counted, 0 to d_sae. Meaningless without that number of tokens beside it.

    It has no bootstrap interval: a resample holds only 63 % of the contexts, so it would always find more of them dead.
    """
    return int((counts == 0).sum())


def median(counts: "Tensor") -> float:
    """Median over tokens of the L0, in latents per token; of an even number of tokens the lower of the two in the middle."""
    return float(counts.double().median())


def mean_l0(sums: dict) -> float:
    """Mean over tokens of the L0, in latents per token; 0 to d_sae."""
    return sums["l0"] / sums["tokens"]


def l0_deviation(sums: dict) -> float:
    """Standard deviation over tokens of the L0, in latents per token: sqrt(E[L0^2] - E[L0]^2). 0 for TopK."""
    import numpy as np  # here, for cards read the names of metrics without it

    variance = sums["l0_squared"] / sums["tokens"] - mean_l0(sums) ** 2
    return np.sqrt(np.maximum(variance, 0))


def activation_rate(sums: dict) -> float:
    """Mean share of the latents that are active on a token, L0 / d_sae; 0 to 1, the mean of the densities. Unitless."""
    return sums["l0"] / sums["latents"]
