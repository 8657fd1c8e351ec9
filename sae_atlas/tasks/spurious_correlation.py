"""Spurious correlation removal: can a probe be cured of a label that it learnt with the one that was meant?

SAEBench 0.6.0, `scr_and_tpp` with SCR (arXiv 2503.09532, section 4.2; after SHIFT, Marks et al. 2024, arXiv 2403.19647). Two
labels of a document that can be told apart: which of two topics it is about, and a second one. The biased probe sees only
documents in which both agree. Units of the one label are ablated; the probe is then asked about the other.
"""

from typing import NamedTuple

import numpy as np

from sae_atlas.tasks.ablation import COUNTS, ablated_logits, mean_difference, strongest
from sae_atlas.tasks.codes import Code
from sae_atlas.tasks.linear_probe import fit

LEAST_GAP = 0.001  # of accuracies, below which there is nothing to remove


class Right(NamedTuple):
    """Which items are predicted rightly [items], about either label in turn (0: topic, 1: second).

    own: by the probe of the label itself; biased: by the biased probe; ablated: by that probe when the units of the other
    label are ablated, by their number.
    """

    own: list[np.ndarray]
    biased: list[np.ndarray]
    ablated: list[dict[int, np.ndarray]]


def removed(train: Code, x_train: np.ndarray, labels: np.ndarray, test: Code, x_test: np.ndarray, truth: np.ndarray):
    """Right predictions of the test items (Right).

    x_train [train items, d_in], x_test [test items, d_in]: raw activations; labels [2, train items] and truth [2, test items]
    bool: the topic and the second label. Each of the four combinations weighs the same, where SAEBench draws equally many of
    each. Raises ValueError where one has no train item.
    """
    cells = quadrants(labels)
    if not cells.any(axis=1).all():
        raise ValueError("a combination of the labels has no train item")
    probes = [fit(x_train, label, cells) for label in labels]
    biased = fit(x_train, labels[0], cells[[0, 3]])
    logits = biased.logits(x_test)
    result = Right([], [], [])
    for about, of_other in ((0, 1), (1, 0)):
        written = train.directions @ np.stack([probes[of_other].weights, biased.weights], axis=1)
        difference = mean_difference(train.activations, labels[of_other], cells)
        units = strongest(np.abs(difference * written[:, 0]), max(COUNTS))
        result.own.append((probes[about].logits(x_test) > 0) == truth[about])
        result.biased.append((logits > 0) == truth[about])
        changed = {
            count: ablated_logits(logits[:, None], test.activations, written[:, 1:], units[:count])[:, 0]
            for count in COUNTS
            if count <= len(written)
        }
        result.ablated.append({count: (each > 0) == truth[about] for count, each in changed.items()})
    return result


def quadrants(labels: np.ndarray) -> np.ndarray:
    """The four combinations of two labels [2, items]: both, the first alone, the second alone, none; [4, items] bool."""
    first, second = labels
    return np.stack([first & second, first & ~second, ~first & second, ~first & ~second])


def score(own: np.ndarray, biased: np.ndarray, ablated: np.ndarray) -> np.ndarray:
    """Share of the gap between the biased probe and the label's own that ablation closes, of accuracies [...].

    1 closes it, 0 changes nothing, below 0 the ablation harms; 0, too, where the gap is below LEAST_GAP.
    """
    gap = own - biased
    return np.where(gap < LEAST_GAP, 0, (ablated - biased) / np.where(gap < LEAST_GAP, 1, gap))
