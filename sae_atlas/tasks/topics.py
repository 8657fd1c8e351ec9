"""The three tasks on documents: every document is predicted by probes, and by units, that were chosen without it."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sklearn.model_selection import StratifiedKFold

from sae_atlas.features.probes import FOLDS
from sae_atlas.tasks import spurious_correlation, topic_perturbation
from sae_atlas.tasks.accuracy import balanced_accuracy
from sae_atlas.tasks.codes import Code
from sae_atlas.tasks.linear_probe import LinearProbe, fit
from sae_atlas.tasks.sparse_probing import k_sparse_predictions

SEED = 0
PAIRS = 4  # pairs of topics for spurious correlation removal, at most
LEAST_IN_QUADRANT = 6  # documents of a pair with the same two labels


@dataclass(frozen=True)
class Labelled:
    """x [documents, d_in]: mean raw activations; topics [documents] of str; second [documents] bool."""

    x: np.ndarray
    topics: np.ndarray
    second: np.ndarray

    @property
    def names(self) -> list[str]:
        return sorted(set(self.topics.tolist()))

    @property
    def members(self) -> np.ndarray:
        """[topics, documents] bool."""
        return self.topics == np.array(self.names)[:, None]

    def folds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(train, test) documents, each topic spread over the folds."""
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(self.topics, self.topics))


class DenseProbes:
    """Probes for every topic on the raw activations, one set per fold; the same for all codes."""

    def __init__(self, data: Labelled):
        self.data, self.folds = data, data.folds()
        self.probes: list[list[LinearProbe]] = [
            [fit(data.x[train], member[train], np.stack([member[train], ~member[train]])) for member in data.members]
            for train, _ in self.folds
        ]

    def logits(self, fold: int) -> np.ndarray:
        """Of the fold's test documents, [test documents, topics]."""
        test = self.folds[fold][1]
        return np.stack([probe.logits(self.data.x[test]) for probe in self.probes[fold]], axis=1)

    def accuracy(self, counts: np.ndarray) -> np.ndarray:
        """Balanced accuracy of every topic's probe, [topics, draws]."""
        said = np.zeros(self.data.members.shape, bool)
        for fold, (_, test) in enumerate(self.folds):
            said[:, test] = self.logits(fold).T > 0
        return of_topics(said, self.data.members, counts)


def of_topics(said: np.ndarray, members: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Balanced accuracy of what is said of every topic's documents and all others, [..., topics, draws].

    said: [..., topics, documents] bool; members: [topics, documents] bool; counts: [draws, documents].
    """
    groups = np.stack([members, ~members]).reshape(2, *(1,) * (said.ndim - 2), *members.shape)
    return balanced_accuracy(said == members, groups, counts)


def sparse_probing(code: Code, dense: DenseProbes, counts: np.ndarray) -> dict[int, np.ndarray]:
    """Number of units -> balanced accuracy of every topic's k-sparse probe, [topics, draws]."""
    members = dense.data.members
    said: dict[int, np.ndarray] = {}
    for train, test in dense.folds:
        for topic, member in enumerate(members):
            for count, each in k_sparse_predictions(
                code.activations[train], member[train], code.activations[test]
            ).items():
                said.setdefault(count, np.zeros(members.shape, bool))[topic, test] = each
    return {count: of_topics(each, members, counts) for count, each in said.items()}


def perturbation(code: Code, dense: DenseProbes, counts: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
    """Number of ablated units -> topic_perturbation.effects, [draws] each."""
    members = dense.data.members
    said: dict[int, np.ndarray] = {}
    for fold, (train, test) in enumerate(dense.folds):
        logits, probes = dense.logits(fold), dense.probes[fold]
        ablated = topic_perturbation.perturbed(code.of(train), members[:, train], code.of(test), logits, probes)
        for count, each in ablated.items():
            said.setdefault(count, np.zeros((len(members), *members.shape), bool))[:, :, test] = (
                each.transpose(0, 2, 1) > 0
            )
    clean = dense.accuracy(counts)
    return {
        count: topic_perturbation.effects(clean, of_topics(ablated, members, counts)) for count, ablated in said.items()
    }


def topic_pairs(data: Labelled) -> list[tuple[str, str]]:
    """Disjoint pairs of topics whose four combinations with the second label all have documents enough: of the topics with the
    most documents with and without it the first two, the next two, and so on.
    """
    least = {}
    for name, member in zip(data.names, data.members, strict=True):
        least[name] = min(int((member & data.second).sum()), int((member & ~data.second).sum()))
    fit = [name for name in sorted(least, key=lambda name: -least[name]) if least[name] >= LEAST_IN_QUADRANT]
    return list(pairwise(fit))[::2][:PAIRS]


def correlation_removal(code: Code, data: Labelled, pair: tuple[str, str], counts: np.ndarray) -> dict[int, dict]:
    """Number of ablated units -> scores of a pair of topics: `dir1`, about the topic when the second label's units are ablated,
    `dir2`, the other way round, and `metric`, that of the two whose label the biased probe tells worse; [draws] each.

    counts: [draws, documents].
    """
    of_pair = np.flatnonzero(np.isin(data.topics, pair))
    labels = np.stack([data.topics[of_pair] == pair[0], data.second[of_pair]])
    cells = spurious_correlation.quadrants(labels)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(labels[0], cells.argmax(axis=0))
    own, biased = (np.zeros(labels.shape, bool) for _ in range(2))
    ablated: dict[int, np.ndarray] = {}
    x = data.x[of_pair]
    code = code.of(of_pair)
    for train, test in folds:
        right = spurious_correlation.removed(
            code.of(train), x[train], labels[:, train], code.of(test), x[test], labels[:, test]
        )
        for about in range(2):
            own[about, test], biased[about, test] = right.own[about], right.biased[about]
            for count, each in right.ablated[about].items():
                ablated.setdefault(count, np.zeros(labels.shape, bool))[about, test] = each
    counts = counts[:, of_pair]
    clean, before = ([balanced_accuracy(each, cells, counts) for each in right] for right in (own, biased))
    worse = int(before[1][0] < before[0][0])
    scores = {}
    for count, right in ablated.items():
        of_direction = [
            spurious_correlation.score(clean[about], before[about], balanced_accuracy(right[about], cells, counts))
            for about in range(2)
        ]
        scores[count] = {"metric": of_direction[worse], "dir1": of_direction[0], "dir2": of_direction[1]}
    return scores
