"""Detection: does a name predict in which windows the latent fires?

As EleutherAI's detection scores (Paulo et al. 2024, arXiv 2410.13928): half of the windows hold a peak and half none, all
of documents that the name was not made from. Those with a peak are a random sample of the other peaks, so a name that
fits the highest peaks alone scores low.
"""

import math
from dataclasses import dataclass

import numpy as np

from sae_atlas.features.name_patterns import Window

LEAST = 4  # windows of a trial; with fewer available it is empty


@dataclass(frozen=True)
class Trial:
    """Windows in a random order; `fires`: does the latent fire in them?"""

    windows: list[Window]
    fires: np.ndarray


def make_trial(held_out: list[Window], silent: list[Window], generator: np.random.Generator) -> Trial:
    """As many of `held_out` (it fires) as of `silent` (it does not); empty if there are too few of either."""
    count = min(len(held_out), len(silent))
    if 2 * count < LEAST:
        return Trial([], np.zeros(0, bool))
    chosen = [each[i] for each in (held_out, silent) for i in generator.choice(len(each), count, replace=False)]
    order = generator.permutation(2 * count)
    return Trial([chosen[i] for i in order], order < count)


def balanced_accuracy(predicted: np.ndarray, fires: np.ndarray) -> float:
    """Balanced accuracy of the predictions: mean of the shares of windows with and without that are right, 1/2 by chance.

    0 to 1; NaN if there are no windows.
    """
    if not len(fires):
        return math.nan
    return float((predicted[fires].mean() + (~predicted[~fires]).mean()) / 2)
