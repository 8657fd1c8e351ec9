"""Bootstrap intervals over held-out contexts: tokens of one context are not independent, contexts are."""

from collections.abc import Callable

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


def interval(sums: dict[str, np.ndarray], metric: Callable[[dict], float], seed: int = 0) -> tuple[float, float]:
    """Percentile interval (95 %) of `metric` over resampled contexts (Efron 1979).

    sums: name -> [contexts], what each context adds to the sums that the metric is a function of. With fewer than two
    contexts there is no interval: (nan, nan).
    """
    contexts = len(next(iter(sums.values())))
    if contexts < 2:
        return float("nan"), float("nan")
    weights = resamples(contexts, seed)
    return middle(metric({name: weights @ each for name, each in sums.items()}))


def resamples(count: int, seed: int = 0) -> np.ndarray:
    """How often each of `count` things is drawn in every resample, [RESAMPLES, count]."""
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    return np.stack([np.bincount(row, minlength=count) for row in drawn])


def middle(values: np.ndarray) -> tuple[float, float]:
    """The ends between which the middle 95 % of `values` lie."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
