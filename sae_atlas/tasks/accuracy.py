"""Balanced accuracy of predictions on items, for the items as they are and for resamples of them."""

import numpy as np

from sae_atlas.metrics.bootstrap import confidence_interval, resamples


def draws(items: int) -> np.ndarray:
    """How often every item counts, [1 + RESAMPLES, items]: once each in the first row, as drawn in the others."""
    return np.concatenate([np.ones((1, items)), resamples(items)])


def balanced_accuracy(right: np.ndarray, groups: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean over groups of the share of their items that is right, [..., draws]; NaN where a draw holds none of a group.

    right: [..., items] bool; groups: [groups, ..., items] bool, the two classes, or every combination of two labels; counts:
    [draws, items]. Between 0 and 1; 1/2 is chance for two classes. Where all groups are of one size, it is plain accuracy.
    """
    of_group = groups.astype(float) @ counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((groups & right).astype(float) @ counts.T / of_group).mean(axis=0)


def value_and_interval(drawn: np.ndarray) -> tuple[float, float, float]:
    """The value on the items as they are, and its 95% bootstrap interval; draws [draws] as `draws` orders them."""
    known = drawn[1:][np.isfinite(drawn[1:])]
    low, high = confidence_interval(known) if len(known) else (np.nan, np.nan)
    return float(drawn[0]), low, high
