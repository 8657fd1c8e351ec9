"""Bootstrap intervals over held-out contexts: tokens of one context are not independent, contexts are."""

from collections.abc import Iterator

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


def resampled(sums: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """The sums over resampled contexts (Efron 1979): name -> [RESAMPLES], for all metrics that are made of them.

    sums: name -> [contexts], what each context adds. With fewer than two contexts there is nothing to draw from: NaN.
    """
    added = np.stack(list(sums.values()), axis=1)
    drawn = np.array(list(drawn_sums(added, seed))) if len(added) > 1 else np.full(added.shape, np.nan)
    return dict(zip(sums, drawn.T, strict=True))


def drawn_sums(added, seed: int = 0) -> Iterator[np.ndarray]:
    """Sums [n] over resampled contexts, resample by resample, of what each context adds: `added` [contexts, n], also sparse.

    None where there are fewer than two contexts.
    """
    contexts = added.shape[0]
    return (times @ added for times in _drawn(contexts, seed)) if contexts > 1 else iter(())


def resamples(count: int) -> np.ndarray:
    """How often each of `count` things is drawn in every resample, [RESAMPLES, count]."""
    return np.stack(list(_drawn(count, seed=0)))


def _drawn(count: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` things is drawn, resample by resample: a long text has many contexts."""
    generator = np.random.default_rng(seed)
    return (np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(RESAMPLES))


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """The ends between which the middle 95 % of `values` lie."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
