"""The distillation-floor formula, two corrections of it, and the distance of a spectrum from the shape of each.

By the formula a student of width d_S keeps as many of the teacher's most important latents as its width can hold, and loses
the importance of all others: L*(d_S) = sum of I_j beyond rank F_S, in squared units of the activations. Published, F_S is
floor(d_S g(alpha)) (arXiv 2604.04037; I_j and g: metrics.importance). An independent audit (doi 10.5281/zenodo.20640978)
trained toy models and found the charge for a lost latent right and the kept count too high; it fits the latents kept per
dimension by 1.03 g^0.53 where importances fall as 1 / rank (Zipf) and by 0.93 g^0.93 where all are equal.
"""

import math

import numpy as np

FORMULAS = {"published": (1.0, 1.0), "zipf": (1.03, 0.53), "uniform": (0.93, 0.93)}  # factor and power of g
CORRECTIONS = ("zipf", "uniform")


def n_retained(width: int, g: float, latents: int, formula: str) -> int:
    """F_S: how many of `latents` alive latents a student of `width` dimensions keeps, 0 to `latents`."""
    factor, power = FORMULAS[formula]
    per_dimension = factor * g**power
    return min(latents, math.floor(width * per_dimension)) if math.isfinite(per_dimension) else latents


def tail_sums(spectrum: np.ndarray) -> np.ndarray:
    """Sum of the importance beyond every rank 0 .. n, [..., n + 1], of importances [..., n] sorted, largest first.

    Summed from the smallest, so that the thin tail is not lost in the rounding of the head.
    """
    tails = np.cumsum(spectrum[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([tails, np.zeros((*tails.shape[:-1], 1))], axis=-1)


def distance(spectrum: np.ndarray, shape: str) -> float:
    """Total variation between the shares of a sorted spectrum [n] and the shape's: 0 (the same) to 1. NaN without importance.

    shape: `zipf`, shares as 1 / rank, or `uniform`. The share of the importance that lies at other ranks than it says.
    """
    total = spectrum.sum()
    if not total:
        return math.nan
    shares = 1 / np.arange(1, len(spectrum) + 1) if shape == "zipf" else np.ones(len(spectrum))
    return float(np.abs(spectrum / total - shares / shares.sum()).sum() / 2)
