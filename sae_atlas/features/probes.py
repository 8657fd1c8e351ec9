"""Sparse probing: can a topic be read from one, two or five latents, beside all raw activations?

Method of Gurnee et al. 2023 (arXiv 2305.01610) and SAEBench: mean over a document's tokens, latents chosen by the
difference of their class means, logistic regression. Every document is predicted by a probe that has not seen it, nor
has the choice of its latents.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csc_array
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

LATENTS = (1, 2, 5)
FOLDS = 3
RESAMPLES = 1000
PROBE_COLUMNS = {"topic": "str", "latents": "int64", "accuracy": "float64", "low": "float64", "high": "float64"}
PROBE_COLUMNS |= {"of_topic": "int64", "documents": "int64"}


def probe_table(latents: csc_array, raw: np.ndarray, topics: np.ndarray, names: Sequence[str], seed: int):
    """A row per topic and number of latents (0: the raw activations), as a data frame.

    latents [documents, d_sae], sparse, and raw [documents, d_in]: means over a document's tokens; topics
    [documents] of str or None; names: the topics to probe, each with at least FOLDS documents. Documents of no or another
    topic are left out.
    accuracy: balanced, the mean of the shares of documents of the topic and of all others that are predicted rightly; 1/2
    is chance. No rows with fewer than two topics. low, high: 95% bootstrap interval over documents.
    """
    if len(names) < 2:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in PROBE_COLUMNS.items()})
    known = np.isin(topics.astype(str), names) & np.array([topic is not None for topic in topics], bool)
    latents, raw, topics = latents[known], raw[known], topics[known].astype(str)
    of_probes = predictions(latents.toarray(), raw, topics, names, seed)
    draws = np.random.default_rng(seed).integers(len(topics), size=(RESAMPLES, len(topics)))
    rows = []
    for (name, count), predicted in of_probes.items():
        labels = topics == name
        right = predicted == labels
        low, high = np.nanquantile(balanced(right[draws], labels[draws]), [0.025, 0.975])
        rows.append((name, count, balanced(right, labels), low, high, labels.sum(), len(labels)))
    return pd.DataFrame(rows, columns=list(PROBE_COLUMNS)).astype(PROBE_COLUMNS)


def predictions(latents, raw, topics: np.ndarray, names: Sequence[str], seed: int) -> dict:
    """(topic, number of latents) -> is each document of the topic, [documents] bool, as the probes say."""
    predicted = {(name, count): np.zeros(len(topics), bool) for name in names for count in (*LATENTS, 0)}
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(topics, topics):
        f, x = (standardised(each[train], each) for each in (latents, raw))
        for name in names:
            labels = topics[train] == name
            best = most_different(f[train], labels)
            for count in (*LATENTS, 0):
                inputs = f[:, best[:count]] if count else x
                predicted[name, count][test] = fit(probe(), inputs[train], labels).predict(inputs[test])
    return predicted


def probe() -> LogisticRegression:
    """Both classes have equal weight; the penalty is for more dimensions than documents (576 raw ones, a few hundred)."""
    return LogisticRegression(class_weight="balanced", C=0.1, max_iter=1000)


def fit(
    model: LogisticRegression, x: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> LogisticRegression:
    """The model, fitted to x [items, units], labels [items] and weights [items] in float64.

    In float32 it is the rounding of x that says where the minimiser stops, and so what is predicted of items near the boundary.
    """
    return model.fit(x.astype(np.float64), labels, weights)


def standardised(train: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 on the documents of `train`; what is constant there is 0."""
    spread = deviation(train)
    return np.divide(values - train.mean(axis=0), spread, out=np.zeros_like(values), where=spread > 0)


def deviation(x: np.ndarray) -> np.ndarray:
    """Standard deviation of every column of x [items, units]; 0 of a constant one, of which rounding would make a tiny one."""
    return np.where(np.ptp(x, axis=0) > 0, x.std(axis=0), 0)


def most_different(f: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Latents by the difference of their class means, largest first; of equal ones the first. f: standardised."""
    difference = np.abs(f[labels].mean(axis=0) - f[~labels].mean(axis=0))
    return np.argsort(-difference, kind="stable")[: max(LATENTS)]


def balanced(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Balanced accuracy over the last axis of right and labels (bool)."""
    of_topic, others = labels.sum(axis=-1), (~labels).sum(axis=-1)
    with np.errstate(invalid="ignore"):  # a bootstrap draw may hold no document of the topic
        return ((right & labels).sum(axis=-1) / of_topic + (right & ~labels).sum(axis=-1) / others) / 2
