"""A generative model of rows: which true features are active in a row, how strongly, and the row that they add up to."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtri

from sae_atlas.synthetic.features import Forest, directions, firing_probabilities

FACTORS = 25  # normal variables that correlated features share, as in SAELens' SynthSAEBench
VALUES_AT_ONCE = 2**23  # rows x features that are drawn at once


@dataclass(frozen=True)
class World:
    """directions: float32 [features, d]; probability: float64 [features]; loadings: float32 [features, FACTORS], of norm
    sqrt(correlation); magnitude, magnitude_std: of an active feature; noise: standard deviation of every dimension.
    """

    forest: Forest
    directions: np.ndarray
    probability: np.ndarray
    loadings: np.ndarray
    correlation: float
    magnitude: float
    magnitude_std: float
    noise: float

    @property
    def rows_at_once(self) -> int:
        return max(1, VALUES_AT_ONCE // len(self.directions))

    def draw(self, rows: int, generator: np.random.Generator) -> tuple[np.ndarray, csr_array]:
        """(activations, float32 [rows, d]; magnitudes of the true features in them, float32 [rows, features])."""
        active = csr_array(self._active(rows, generator))
        strength = self._magnitudes(active.nnz, generator)
        magnitudes = csr_array((strength, active.indices, active.indptr), shape=active.shape)
        x = magnitudes @ self.directions  # row by row, in the order of the features: no BLAS
        if self.noise:
            x += np.float32(self.noise) * generator.standard_normal(x.shape, np.float32)
        return x, magnitudes

    def _active(self, rows: int, generator: np.random.Generator) -> np.ndarray:
        """Which features are active, bool [rows, features], each as often as its probability says."""
        forest, active = self.forest, np.zeros((rows, len(self.probability)), bool)
        active[:, : forest.roots] = self._at_the_top(rows, slice(0, forest.roots), generator)
        alone = slice(forest.in_trees, None)
        active[:, alone] = self._at_the_top(rows, alone, generator)
        for above, level in pairwise(forest.levels):
            row, parent = np.nonzero(active[:, above])
            share = self.probability[level].reshape(-1, forest.children) / self.probability[above][:, None]
            draws = generator.random((len(row), forest.children))
            upper = share.cumsum(axis=1)
            lower = np.concatenate([np.zeros((len(upper), 1)), upper[:, :-1]], axis=1)
            one = (lower[parent] <= draws[:, :1]) & (draws[:, :1] < upper[parent])  # by a single draw, so one at most
            chosen = np.where(forest.excludes[above][parent][:, None], one, draws < share[parent])
            entry, child = np.nonzero(chosen)
            active[row[entry], level.start + parent[entry] * forest.children + child] = True
        return active

    def _at_the_top(self, rows: int, features: slice, generator: np.random.Generator) -> np.ndarray:
        """Of features without a parent: correlated by a Gaussian copula, each still as often as its probability says."""
        probability, loadings = self.probability[features], self.loadings[features]
        if not self.correlation:
            return generator.random((rows, len(probability)), np.float32) < probability
        shared = generator.standard_normal((rows, FACTORS), np.float32)
        normal = generator.standard_normal((rows, len(probability)), np.float32)
        normal *= np.float32(np.sqrt(1 - self.correlation))
        normal += np.einsum("rk,fk->rf", shared, loadings)
        return normal > -ndtri(probability)

    def _magnitudes(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Gamma distributed: always above 0, so that an active feature is in the row."""
        if not self.magnitude_std:
            return np.full(count, self.magnitude, np.float32)
        scale = self.magnitude_std**2 / self.magnitude
        return (scale * generator.standard_gamma(self.magnitude / scale, count)).astype(np.float32)


def make_forest(features: int, hierarchy: dict | None) -> Forest:
    return Forest(features, **(hierarchy or {}))


def make_world(
    seed: int,
    layer: int,
    d: int,
    features: int,
    l0: float,
    zipf: float,
    correlation: float,
    magnitude: float,
    magnitude_std: float,
    noise: float,
    hierarchy: dict | None = None,
) -> World:
    """The world of a layer, by the keys of config section `base_model.generator`. Layers differ in directions and in rows.

    Raises AtlasError for an L0 that cannot be reached, and for trees of more features than there are.
    """
    forest = make_forest(features, hierarchy)
    forest.check()
    generator = np.random.default_rng([seed, layer, 0])
    rows = directions(features, d, generator)
    loadings = generator.standard_normal((features, FACTORS))
    loadings *= np.sqrt(correlation / np.square(loadings).sum(axis=1, keepdims=True))
    probability = firing_probabilities(forest, l0, zipf)
    chances = {"correlation": correlation, "magnitude": magnitude, "magnitude_std": magnitude_std, "noise": noise}
    return World(forest, rows, probability, loadings.astype(np.float32), **chances)


def rows_of(world: World, seed: int, layer: int, part: int, rows: int) -> tuple[np.ndarray, csr_array]:
    """World.draw of a part of `rows_at_once` rows, of which the first `rows` are wanted; each part has a seed of its own."""
    return world.draw(rows, np.random.default_rng([seed, layer, 1, part]))
