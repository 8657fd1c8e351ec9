"""k-sparse probing: can a class be read from one, two or five units of a code?

Gurnee et al. 2023 (arXiv 2305.01610), as SAEBench 0.6.0 computes it (arXiv 2503.09532): units by the difference of their
class means, as they stand, and a logistic regression with its default penalty. Unlike features.probes, which standardises.
"""

import numpy as np
from sklearn.linear_model import LogisticRegression

from sae_atlas.features.probes import LATENTS, fit, most_different


def k_sparse_predictions(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> dict[int, np.ndarray]:
    """Number of units -> whether each test item is of the class, [test items] bool.

    train [train items, units] and labels [train items] bool: on which units are chosen and probes fitted; test [test items,
    units]. Both classes weigh the same; SAEBench draws as many items of other classes instead, with equal results where the
    items are such a draw.
    """
    best = most_different(train, labels)
    counts = [count for count in LATENTS if count <= len(best)]
    return {count: fit(_probe(), train[:, best[:count]], labels).predict(test[:, best[:count]]) for count in counts}


def _probe() -> LogisticRegression:
    return LogisticRegression(class_weight="balanced", max_iter=1000)
