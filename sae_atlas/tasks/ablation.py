"""What ablating units of a code does to linear probes on raw activations. Shared by both tasks that ablate."""

import numpy as np

COUNTS = (2, 5, 10, 20, 50, 100, 500)  # units that are ablated, SAEBench's n_values


def mean_difference(activations: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Mean activation of the items of a class minus that of all others, [units]; every group of a class weighs the same.

    activations [items, units], labels [items] bool, groups [groups, items] bool, each inside or outside the class.
    """
    means = (groups.astype(activations.dtype) @ activations) / groups.sum(axis=1, keepdims=True)
    inside = np.array([labels[group].all() for group in groups])
    return means[inside].mean(axis=0) - means[~inside].mean(axis=0)


def strongest(effects: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` units with the largest effects above 0; of equal ones the first.

    Where fewer have one, SAEBench adds units without, an arbitrary choice among all that are silent.
    """
    order = np.argsort(-effects, kind="stable")
    return order[effects[order] > 0][:count]


def ablated_logits(logits: np.ndarray, activations: np.ndarray, written: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Logits [items, probes] when `units` are set to zero and the rest, the code's error too, stays as it is.

    activations [items, units] of the code; written [units, probes]: what an activation of 1 adds to every probe's logit.
    """
    return logits - activations[:, units] @ written[units]
