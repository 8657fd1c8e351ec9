"""The true features of a generative model: their hierarchy, how often each is active, and their directions.

Products are sums in a fixed order (no BLAS), so that any number of threads gives the same bits.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from sae_atlas.io.errors import AtlasError

MOST = 0.5  # the largest firing probability of a feature
MOST_OF_PARENT = (
    0.8  # of the rows of its parent a child is active in at most so many, or all of an exclusive group together
)
STEPS = 100  # of the bisection for L0


@dataclass(frozen=True)
class Forest:
    """`roots` trees of `depth` levels below the root, in which every feature above the lowest level has `children` children.

    Features are numbered level by level, so that parents are more frequent than their children; those behind the trees stand
    alone. Of a share `exclusive` of the parents, evenly spread, at most one child is active at a time.
    """

    features: int
    roots: int = 0
    children: int = 0
    depth: int = 0
    exclusive: float = 0

    @cached_property
    def levels(self) -> list[slice]:
        """Features of every level of the trees, the roots first."""
        sizes = [self.roots * self.children**level for level in range(self.depth + 1)] if self.roots else []
        ends = np.cumsum([0, *sizes]).tolist()
        return [slice(first, last) for first, last in pairwise(ends)]

    @cached_property
    def in_trees(self) -> int:
        return self.levels[-1].stop if self.levels else 0

    @cached_property
    def parent(self) -> np.ndarray:
        """Parent of every feature, -1 where it has none, int32 [features]."""
        parent = np.full(self.features, -1, np.int32)
        for above, level in pairwise(self.levels):
            parent[level] = above.start + np.arange(level.stop - level.start) // self.children
        return parent

    @cached_property
    def excludes(self) -> np.ndarray:
        """Whether at most one of a feature's children is active, bool [features]."""
        excludes = np.zeros(self.features, bool)
        parents = self.levels[-1].start if self.levels else 0
        reached = np.floor(np.arange(parents + 1) * self.exclusive + 1e-9)
        excludes[:parents] = np.diff(reached) > 0
        return excludes

    def check(self) -> None:
        """Raise AtlasError where the trees need more features than there are."""
        if self.in_trees > self.features:
            raise AtlasError(
                f"hierarchy.roots: {self.roots} trees of {self.children} children on {self.depth} levels are {self.in_trees} "
                f"features, and there are {self.features}; lower one of them or raise features"
            )


def firing_probabilities(forest: Forest, l0: float, zipf: float) -> np.ndarray:
    """How often every feature is active, float64 [features], summing to `l0`.

    Proportional to rank^-zipf (Zipf's law), cut at MOST; of a child at MOST_OF_PARENT of its parent's, and of exclusive
    children in sum. Raises AtlasError where `l0` cannot be reached.
    """
    weights = np.arange(1, forest.features + 1, dtype=float) ** -zipf

    def cut(scale: float) -> np.ndarray:
        return _cut(forest, np.minimum(scale * weights, MOST))

    most = cut(1 / weights[-1]).sum()
    if l0 > most:
        raise AtlasError(f"l0: {l0} is more than {forest.features} such features can have, {most:.4g}; lower it")
    low, high = 0.0, 1 / weights[-1]
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle).sum() < l0 else (low, middle)
    return cut(high)


def _cut(forest: Forest, probability: np.ndarray) -> np.ndarray:
    """The probabilities, level by level no higher than those of the parents allow."""
    for above, level in pairwise(forest.levels):
        limit = MOST_OF_PARENT * probability[above][:, None]
        children = np.minimum(probability[level].reshape(-1, forest.children), limit)
        together = children.sum(axis=1, keepdims=True)
        scaled = children * np.minimum(1, limit / together)
        probability[level] = np.where(forest.excludes[above][:, None], scaled, children).ravel()
    return probability


def directions(features: int, d: int, generator: np.random.Generator) -> np.ndarray:
    """Unit directions of the features, float32 [features, d]: orthogonal where there is room, else near-orthogonal.

    In superposition the rows of random orthonormal columns, scaled to norm 1: nearly a tight frame, whose mean squared cosine
    between two directions is about the least there is, (features - d) / (d (features - 1)) (Welch 1974).
    """
    if features <= d:
        return _orthonormal(generator.standard_normal((features, d))).astype(np.float32)
    rows = _orthonormal(generator.standard_normal((d, features))).T
    return (rows / np.sqrt(np.square(rows).sum(axis=1, keepdims=True))).astype(np.float32)


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    """Gram and Schmidt's, twice over each row for precision; rows [k, n] with k up to n, changed in place."""
    for number, row in enumerate(rows):
        for _ in range(2):
            row -= np.einsum("i,in->n", np.einsum("in,n->i", rows[:number], row), rows[:number])
        row /= np.sqrt(np.square(row).sum())
    return rows
