"""Linear probes on raw activations, by which the tasks say what a text is about."""

from dataclasses import dataclass

import numpy as np

from sae_atlas.features import probes


@dataclass(frozen=True)
class LinearProbe:
    """An item x is of the class where x @ weights + bias > 0. weights [d_in], in units of the raw activations."""

    weights: np.ndarray
    bias: float

    def logits(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights + self.bias


def fit(x: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> LinearProbe:
    """Logistic regression on x [items, d_in], standardised; labels [items] bool.

    groups: [groups, items] bool, whose sums of weights are equal; items of no group are not read. SAEBench fits by AdamW on
    raw activations from a random start and keeps the epoch that is best on the test items; here nothing of these is seen, and
    the fit is the one minimum.
    """
    read = groups.any(axis=0)
    x, labels, groups = x[read], labels[read], groups[:, read]
    mean, spread = x.mean(axis=0), probes.deviation(x)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    probe = probes.probe().set_params(class_weight=None)
    fitted = probes.fit(probe, (x - mean) * scale, labels, group_weights(groups))
    weights = fitted.coef_[0] * scale
    return LinearProbe(weights, float(fitted.intercept_[0] - mean @ weights))


def group_weights(groups: np.ndarray) -> np.ndarray:
    """Weights of the items [items], of which each group [groups, items] has the same sum; all sum up to the items."""
    of_group = groups.sum(axis=1)
    return groups.shape[1] / len(groups) * (groups.T / of_group).sum(axis=1)
