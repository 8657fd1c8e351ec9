"""How much each latent matters, how concentrated that is, and the alpha, g and d* of the distillation-floor formula.

The published formula takes E[f_j^2] of SAEs with unit decoder norms. Here a latent counts with its decoder norm, which
is the same number for those and does not depend on how a free decoder is scaled.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sae_atlas.metrics.active import Active


def entry_energy(active: "Active", decoder_norms: "Tensor") -> "Tensor":
    """(f_j ||W_dec_j||)^2 of every active entry, [entries] in float64. Squared activation units.

    Summed over tokens and divided by the tokens seen: the importance I_j of a latent. It does not change when a latent is
    scaled and its decoder row inversely. Sums of batches add up to the whole.
    """
    return (active.value.double() * decoder_norms.double()[active.latent]).square()


def total(sums: dict) -> float:
    """Sum over latents of the importance E[(f_j ||W_dec_j||)^2], in squared units of the activations; 0 or more."""
    return sums["energy"] / sums["tokens"]


def spectrum(importance: "Tensor") -> "Tensor":
    """Importances [d_sae] sorted, largest first. Same unit."""
    return importance.sort(descending=True).values


def participation_ratio(importance: "Tensor") -> float:
    """(sum I)^2 / sum I^2: how many equally important latents would be as concentrated; 1 to d_sae. NaN if all are 0."""
    total, squares = float(importance.sum()), float(importance.square().sum())
    return total**2 / squares if squares else math.nan


def rank(spectrum: "Tensor", share: float) -> float:
    """Fewest latents that hold `share` of the total importance; spectrum sorted, largest first. NaN if all are 0."""
    held = spectrum.double().cumsum(dim=0)
    if not held[-1]:
        return math.nan
    return int((held < share * held[-1]).sum()) + 1


def alpha(l0: float, alive: int) -> float:
    """Sparsity 1 - L0 / F, with F the latents alive on the tokens looked at; 0 (all active) to 1. NaN if F is 0."""
    return 1 - l0 / alive if alive else math.nan


def capacity(alpha: float) -> float:
    """g(alpha) = 1 / ((1 - alpha) ln(1 / (1 - alpha))): latents that a dimension can hold in superposition.

    At least e, reached at alpha = 1 - 1/e; infinite at alpha 0 and 1. d* = F / g(alpha), in dimensions, is the width
    that would hold all F latents; the distillation-floor formula keeps floor(d_S g(alpha)) of them at width d_S.
    """
    active = 1 - alpha
    if active in (0, 1):
        return math.inf
    return 1 / (active * math.log(1 / active))
