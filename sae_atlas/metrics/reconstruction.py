"""How close a reconstruction is: FVU, explained variance, mean squared error, cosine, norm ratio, relative bias.

Each is built from sums over tokens, so that two halves added give the whole, and a sample of contexts its own value.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SUMS = ("tokens", "nonzero", "error", "variance", "cosine", "norm_ratio", "norm_hat", "product")


def token_sums(x: "Tensor", x_hat: "Tensor", mean: "Tensor") -> dict[str, "Tensor"]:
    """Per-token terms, each [tokens] in float64, of x and x_hat [tokens, d_in] and the per-dimension mean [d_in]."""
    x, x_hat = x.double(), x_hat.double()
    norm, norm_hat = x.norm(dim=1), x_hat.norm(dim=1)
    product = (x * x_hat).sum(dim=1)
    tiny, nonzero = sys.float_info.min, (norm > 0).double()
    return {
        "tokens": x.new_ones(len(x)),
        "nonzero": nonzero,
        "error": ((x - x_hat) ** 2).sum(dim=1),
        "variance": ((x - mean) ** 2).sum(dim=1),
        "cosine": product / (norm * norm_hat).clamp_min(tiny),
        "norm_ratio": norm_hat * nonzero / norm.clamp_min(tiny),
        "norm_hat": norm_hat**2,
        "product": product,
    }


def fvu(sums: dict) -> float:
    """Fraction of variance unexplained: sum ||x - x_hat||^2 / sum ||x - mean||^2, one ratio over all tokens.

    Predicting the per-dimension mean gives 1, a perfect reconstruction 0; worse than the mean exceeds 1. Unitless. Not
    the mean of per-token or per-batch ratios, which weighs quiet tokens up.
    """
    return sums["error"] / sums["variance"]


def explained_variance(sums: dict) -> float:
    """1 - FVU: exactly 0 for the per-dimension mean, 1 for a perfect reconstruction, below 0 if worse than the mean.

    Unitless. Not the mean of per-batch ratios, and never about zero: uncentred, a true 0.78 has been published as 0.98.
    """
    return 1 - fvu(sums)


def fvu_without_outliers(sums: dict) -> float:
    """FVU over the tokens whose norm is not far above the median, about the mean of those tokens. Same range.

    A few tokens of 100 times the median norm hold most of the variance and are easy to reconstruct: with them the FVU of
    a Pythia looks four times better.
    """
    return sums["error_inside"] / sums["variance_inside"]


def explained_variance_without_outliers(sums: dict) -> float:
    """1 - FVU without outlier tokens; the same range as explained variance."""
    return 1 - fvu_without_outliers(sums)


def mse(sums: dict) -> float:
    """Mean over tokens of ||x - x_hat||^2, in squared units of the activations, summed over dimensions."""
    return sums["error"] / sums["tokens"]


def cosine(sums: dict) -> float:
    """Mean over tokens, but for those where x is 0, of the cosine between x and x_hat (uncentred); -1 to 1."""
    return sums["cosine"] / sums["nonzero"]


def norm_ratio(sums: dict) -> float:
    """Mean over tokens, but for those where x is 0, of ||x_hat|| / ||x||; 1 means no shrinkage."""
    return sums["norm_ratio"] / sums["nonzero"]


def relative_bias(sums: dict) -> float:
    """E||x_hat||^2 / E[x . x_hat]: relative reconstruction bias, 1 without shrinkage (arXiv 2404.16014, eq. 10).

    NaN for an SAE that reconstructs nothing.
    """
    import numpy as np  # here, for cards read the names of metrics without it

    with np.errstate(invalid="ignore"):
        return sums["norm_hat"] / sums["product"]
