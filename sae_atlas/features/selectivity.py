"""Topic selectivity: the AUROC of every latent for every topic, with a baseline from shuffled topics.

A document's score is the peak of the latent in it. AUROC = P(a document of the topic scores higher than one of another
topic) + P(equal) / 2, from rank sums (Mann and Whitney 1947): 1 for a latent that fires exactly on the topic, 1/2 for one
that is independent of it. Documents without a topic and topics of fewer than MIN_DOCUMENTS documents are left out.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

MIN_DOCUMENTS = 5
LATENTS_AT_ONCE = 1024  # latents ranked at once: bounds memory
LEVEL = 0.95


@dataclass(frozen=True)
class Selectivity:
    """Per latent the topic with the largest AUROC, that AUROC, and the 95% point of the same over shuffled topics.

    topic: [latents] index into the names, -1 where it is undefined; auroc, baseline: [latents], NaN there.
    """

    topic: np.ndarray
    auroc: np.ndarray
    baseline: np.ndarray


def frequent_topics(topics: np.ndarray) -> list[str]:
    """Topics with enough documents, sorted. topics: [documents] of str or None."""
    names, counts = np.unique([topic for topic in topics if topic is not None], return_counts=True)
    return [str(name) for name, count in zip(names, counts, strict=True) if count >= MIN_DOCUMENTS]


def selectivity(scores, topics: np.ndarray, permutations: int, seed: int) -> Selectivity:
    """scores: peaks [documents, latents], a sparse matrix (CSC) or an array; topics [documents] of str or None.

    A baseline per latent: `permutations` times all labels are shuffled over the documents and the best AUROC is taken, as
    for the real ones; a latent that is independent of the topics exceeds it with probability 5%. Undefined for a latent that
    never fires, and with fewer than two topics.
    """
    names = frequent_topics(topics)
    labels = np.array([names.index(topic) if topic in names else -1 for topic in topics], int)
    scores, labels = scores[labels >= 0], labels[labels >= 0]
    latents = scores.shape[1]
    result = Selectivity(np.full(latents, -1), np.full(latents, math.nan), np.full(latents, math.nan))
    if len(names) < 2:
        return result
    generator = np.random.default_rng(seed)
    shuffled = np.concatenate([_members(generator.permutation(labels), len(names)) for _ in range(permutations)])
    members = _members(labels, len(names))
    # The level is exact: under independence all ranks of the real value among the shuffled ones are equally likely.
    point = math.ceil(LEVEL * (permutations + 1)) - 1
    for first in range(0, latents, LATENTS_AT_ONCE):
        block = slice(first, min(first + LATENTS_AT_ONCE, latents))
        dense = scores[:, block]
        dense = dense.toarray() if hasattr(dense, "toarray") else dense
        fires = dense.max(axis=0) > 0
        ranks = rankdata(dense, axis=0)
        real = aurocs(ranks, members)
        best = aurocs(ranks, shuffled).reshape(permutations, len(names), -1).max(axis=1)
        result.topic[block] = np.where(fires, real.argmax(axis=0), -1)
        result.auroc[block] = np.where(fires, real.max(axis=0), math.nan)
        result.baseline[block] = np.where(fires, np.partition(best, point, axis=0)[point], math.nan)
    return result


def _members(labels: np.ndarray, topics: int) -> np.ndarray:
    return labels == np.arange(topics)[:, None]


def aurocs(ranks: np.ndarray, members: np.ndarray) -> np.ndarray:
    """AUROC of every column of scores, given as ranks [documents, latents], for every row of members [topics, documents]."""
    inside = members.sum(axis=1, keepdims=True)
    outside = members.shape[1] - inside
    return (members.astype(float) @ ranks - inside * (inside + 1) / 2) / (inside * outside)
