"""Synthetic rows: their statistics are those that were asked for, a seed gives the same bits, and what cannot be is refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import vstack

from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import sha256
from sae_atlas.own_arrays.files import find_layers
from sae_atlas.own_arrays.read import open_array
from sae_atlas.synthetic.features import MOST, MOST_OF_PARENT, Forest, directions, firing_probabilities
from sae_atlas.synthetic.truth import read_truth, write_worlds
from sae_atlas.synthetic.world import make_world, rows_of
from workflow import ROOT, changed

TREES = {"roots": 6, "children": 3, "depth": 2, "exclusive": 0.5}
WORLD = {"d": 24, "features": 120, "l0": 6, "zipf": 0.7, "correlation": 0.4, "hierarchy": TREES}
WORLD |= {"magnitude": 2.0, "magnitude_std": 0.5, "noise": 0.0}


@pytest.fixture(scope="module")
def drawn():
    world = make_world(0, 0, **WORLD)
    parts = [rows_of(world, 0, 0, part, 30_000) for part in range(2)]
    return world, np.concatenate([x for x, _ in parts]), vstack([magnitudes for _, magnitudes in parts], format="csr")


def test_every_feature_is_active_as_often_as_its_probability_says(drawn):
    world, _, magnitudes = drawn
    count, p = magnitudes.shape[0], world.probability
    rate = np.asarray((magnitudes > 0).mean(axis=0))
    off = (rate - p) / np.sqrt(p * (1 - p) / count)  # in standard errors
    assert count == 60_000 and abs(off).max() < 4.5 and 0.8 < off.std() < 1.2
    assert p.sum() == pytest.approx(WORLD["l0"]) and magnitudes.nnz / count == pytest.approx(WORLD["l0"], rel=0.01)
    alone = p[world.forest.in_trees :]
    ranks = np.arange(world.forest.in_trees, WORLD["features"]) + 1
    np.testing.assert_allclose(alone / alone[0], (ranks / ranks[0]) ** -0.7, rtol=1e-9)


def test_magnitudes_have_the_mean_and_spread_and_rows_are_their_sums(drawn):
    world, x, magnitudes = drawn
    assert magnitudes.data.min() > 0
    assert magnitudes.data.mean() == pytest.approx(2, rel=0.01) and magnitudes.data.std() == pytest.approx(
        0.5, rel=0.02
    )
    np.testing.assert_allclose(x[:50], magnitudes[:50].toarray() @ world.directions, atol=1e-5)
    np.testing.assert_allclose(np.square(world.directions).sum(axis=1), 1, rtol=1e-5)


def test_a_child_is_active_only_with_its_parent_and_exclusive_ones_one_at_a_time(drawn):
    world, _, magnitudes = drawn
    active, parent = (magnitudes > 0).toarray(), world.forest.parent
    children = np.flatnonzero(parent >= 0)
    assert len(children) == 6 * 3 + 6 * 9 and not (active[:, children] & ~active[:, parent[children]]).any()
    together = {p: active[:, children[parent[children] == p]].sum(axis=1).max() for p in np.unique(parent[children])}
    assert world.forest.excludes.sum() == 12 and set(np.flatnonzero(world.forest.excludes)) <= set(together)
    assert {together[p] for p in together if world.forest.excludes[p]} == {1}
    assert all(together[p] > 1 for p in together if not world.forest.excludes[p])


def test_correlation_is_there_when_it_is_asked_for_and_only_then():
    def largest(correlation):
        world = make_world(0, 0, **WORLD | {"correlation": correlation, "hierarchy": None, "features": 40})
        active = (rows_of(world, 0, 0, 0, 40_000)[1] > 0).toarray().astype(float)
        return np.abs(np.corrcoef(active.T) - np.eye(40)).max()

    assert largest(0.0) < 5 / np.sqrt(40_000) < 0.05 < largest(0.5)


def test_noise_adds_its_variance_to_every_dimension():
    quiet, noisy = (rows_of(make_world(0, 0, **WORLD | {"noise": noise}), 0, 0, 0, 2000)[0] for noise in (0.0, 0.3))
    assert (noisy - quiet).std(axis=0) == pytest.approx(0.3, rel=0.1)


def test_directions_are_orthogonal_where_there_is_room_and_near_a_tight_frame_beyond():
    few, many = (directions(features, 32, np.random.default_rng(0)) for features in (32, 128))
    np.testing.assert_allclose(few @ few.T, np.eye(32), atol=1e-6)
    cosines = (many @ many.T)[~np.eye(128, dtype=bool)]
    welch = np.sqrt((128 - 32) / (32 * 127))
    assert welch <= np.sqrt(np.square(cosines).mean()) < 1.02 * welch


def test_probabilities_keep_within_their_parents():
    forest = Forest(200, roots=5, children=4, depth=2, exclusive=0.4)
    p = firing_probabilities(forest, 12, 0.3)
    children = np.flatnonzero(forest.parent >= 0)
    assert p.max() <= MOST and (p[children] <= MOST_OF_PARENT * p[forest.parent[children]] * (1 + 1e-9)).all()
    for parent in np.flatnonzero(forest.excludes):
        assert p[forest.parent == parent].sum() <= MOST_OF_PARENT * p[parent] * (1 + 1e-9)
    assert p.sum() == pytest.approx(12) and forest.excludes.sum() == 10  # of 25 parents
    with pytest.raises(AtlasError, match=r"^l0: 150 is more than 200 such features can have, .*; lower it$"):
        firing_probabilities(forest, 150, 0.3)


def hashes(folder):
    return {str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}


GENERATOR = WORLD | {"layers": 2, "seed": 3, "noise": 0.1}
WRITE = f"from sae_atlas.synthetic.truth import write_worlds; write_worlds('.', 700, {GENERATOR!r})"


def test_a_seed_gives_the_same_bits_whatever_the_number_of_threads(tmp_path):
    for threads in ("1", "4"):
        (tmp_path / threads).mkdir()
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = os.environ | dict.fromkeys(names, threads) | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", WRITE], cwd=tmp_path / threads, env=env, check=True, capture_output=True)
    first = hashes(tmp_path / "1")
    assert first == hashes(tmp_path / "4") and len(first) > 10
    assert first["rows/layer00.npy"] != first["rows/layer01.npy"]
    write_worlds(tmp_path / "other", 700, GENERATOR | {"seed": 4})
    assert hashes(tmp_path / "other")["rows/layer00.npy"] != first["rows/layer00.npy"]


def test_the_truth_says_what_is_in_every_row(tmp_path):
    path = write_worlds(tmp_path, 500, GENERATOR | {"noise": 0.0})
    rows = np.array([7, 499, 0, 7])
    x = open_array(find_layers(path)[1]).read(rows, 1)
    truth = read_truth(tmp_path, 1)
    active = truth.active(rows)
    assert active.shape == (4, 120) and set(active.data) == {1.0} and active.nnz > 8
    for row, each in zip(x, active.toarray().astype(bool), strict=True):
        strengths = np.linalg.lstsq(truth.directions[each].T, row)[0] if each.any() else np.zeros(0)
        assert (strengths > 0).all()  # and nothing else is needed to give the row
        np.testing.assert_allclose(strengths @ truth.directions[each], row, atol=1e-4)


def test_a_truth_that_cannot_be_read_is_one_line_with_the_remedy(tmp_path):
    write_worlds(tmp_path, 20, GENERATOR)
    (tmp_path / "truth.zarr" / "layer01" / "parent" / "zarr.json").write_text("{")
    for layer in (1, 7):
        with pytest.raises(AtlasError, match=r"no readable truth. Delete .*provenance.json and rerun"):
            read_truth(tmp_path, layer)


# --- the config -----------------------------------------------------------------------------------------------------------


TEXT = {"name": "text", "source": "package", "package": "wikipedia-introductions", "context": 64, "tokens": 3000}


def config(**changes) -> dict:
    atlas = {
        "base_model": {"name": "world", "source": "synthetic", "generator": {"d": 16, "features": 32, "l0": 3}},
        "corpus": {"name": "rows", "source": "rows", "tokens": 3000, "held_out_tokens": 1000},
        "training": {"tokens": 2000, "snapshots": []},
        "recipes": {"topk": {"architecture": "topk", "k": 3, "expansion": 2, "batch": 64}},
        "evaluation": {"tokens": 1000},
    }
    return changed(atlas, changes)


def test_a_generator_is_complete_and_its_layers_are_the_atlas():
    complete = complete_config(config(**{"base_model.generator.layers": 3}), "config.yaml")
    assert complete["activations"]["layers"] == [0, 1, 2] and complete["activations"]["site"] == "activations"
    assert complete["base_model"]["generator"]["zipf"] == 0.5 and "hierarchy" not in complete["base_model"]["generator"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"base_model.generator.l0": 17}, "base_model.generator.l0: 17 is more than 32 such features can have"),
        (
            {"base_model.generator.hierarchy": {"roots": 8, "children": 4}},
            "base_model.generator.hierarchy.roots: 8 trees of 4 children on 1 levels are 40 features, and there are 32",
        ),
        ({"base_model.generator.zipf": -1}, "base_model.generator.zipf: -1 does not fit; write a number from 0 to 4"),
        ({"base_model.generator.magnitude_std": 3.5}, "base_model.generator.magnitude_std: is more than three times"),
        ({"base_model.generator.depth": 2}, "base_model.generator.depth: no such key"),
        ({"base_model.source": "random"}, "base_model.generator: does nothing with source `random`"),
        ({"corpus": TEXT}, "corpus.source: 'package' is text, which no model reads"),
        ({"corpus.path": "rows.csv"}, "corpus.path: synthetic activations have no text"),
        ({"activations.layers": [0, 1]}, "activations.layers: no layer 1; world has layers 0"),
        ({"activations.target": "mlp_out"}, "activations.target: transcoders need a model"),
        ({"evaluation.patched_tokens": 10}, "evaluation.patched_tokens: does nothing with synthetic activations"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_that_names_the_key(changes, line):
    with pytest.raises(AtlasError) as error:
        complete_config(config(**changes), "config.yaml")
    assert f"config.yaml: {line}" in str(error.value)
