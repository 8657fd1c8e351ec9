"""Metrics against known truth: by hand on tiny cases, 1 for a perfect SAE and near chance for a random one."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from sae_atlas.metrics.labels import OF_THE_TRUTH
from sae_atlas.metrics.truth import (
    absorption,
    absorption_sums,
    classification,
    cosines,
    matches,
    mcc,
    measured,
    splitting,
    uniqueness,
)
from sae_atlas.synthetic.truth import Truth
from sae_atlas.synthetic.world import make_world, rows_of

WORLD = {"d": 64, "features": 64, "l0": 6, "zipf": 0.5, "correlation": 0.0, "magnitude": 1.0, "magnitude_std": 0.2}
WORLD |= {"noise": 0.0, "hierarchy": {"roots": 8, "children": 3, "depth": 1, "exclusive": 0.0}}


def world_and_rows(rows=4000):
    """(truth, which features are active, rows) of a world without superposition."""
    world = make_world(0, 0, **WORLD)
    x, magnitudes = rows_of(world, 0, 0, 0, rows)
    start, entries = magnitudes.indptr.astype(np.int64), magnitudes.indices
    truth = Truth(world.directions, world.probability, world.forest.parent, start, entries)
    return truth, truth.active(np.arange(rows)), x


def values(rows: list[dict]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


def test_a_perfect_sae_has_mcc_and_f1_of_1_and_absorbs_nothing():
    truth, firing, x = world_and_rows()
    order = np.random.default_rng(1).permutation(64)
    decoder = torch.from_numpy(truth.directions[order]) * 3  # any order and length
    fires = csr_array((x @ truth.directions[order].T > 1e-4).astype(float))  # orthogonal, so exact
    rows = measured(decoder, fires, firing, truth, np.arange(len(x)))
    assert {row["metric"] for row in rows} == set(OF_THE_TRUTH)
    found = values(rows)
    for metric in ("mcc", "precision", "recall", "f1", "uniqueness", "splitting", "l0_of_true"):
        assert found[metric] == pytest.approx(1, abs=1e-6), metric
    assert found["parent_absorption"] == 0 and found["true_l0"] == pytest.approx(6, rel=0.05)
    with_interval = {row["metric"] for row in rows if np.isfinite(row["low"])}
    assert with_interval == {"precision", "recall", "f1", "parent_absorption", "true_l0", "l0_of_true"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows if row["metric"] in with_interval)


def test_a_random_sae_is_near_chance():
    truth, firing, x = world_and_rows()
    generator = np.random.default_rng(2)
    decoder = torch.from_numpy(generator.standard_normal((64, 64)))
    fires = csr_array((generator.random((len(x), 64)) < 6 / 64).astype(float))
    found = values(measured(decoder, fires, firing, truth, np.arange(len(x))))
    # |cosine| of two random directions has the mean sqrt(2 / (pi d)) = 0.1; an assignment picks the larger ones.
    assert 0.1 < found["mcc"] < 0.35
    # A latent that is active at random is right as often as its feature is active.
    assert found["precision"] == pytest.approx(found["recall"], abs=0.03) and 0.05 < found["f1"] < 0.13
    assert found["uniqueness"] == pytest.approx(1 - 1 / np.e, abs=0.12) and found["parent_absorption"] < 0.1


def test_directions_by_hand():
    true = np.eye(3, dtype=np.float32)
    decoder = torch.tensor([[0.0, -2, 0], [1, 0, 0], [0.6, 0.8, 0], [0, 0, 0]])
    match = matches(cosines(decoder, true))
    assert match.latent_of[:2].tolist() == [1, 0] and match.closest[:3].tolist() == [1, 0, 1]
    assert mcc(match) == pytest.approx(2 / 3)  # the third feature gets a latent that has nothing of it
    assert uniqueness(match) == pytest.approx(2 / 4)
    assert splitting(match, np.array([True, True, True, False])) == pytest.approx(3 / 2)
    assert np.isnan(splitting(match, np.zeros(4, bool)))
    fewer = matches(cosines(decoder[:1], true))
    assert fewer.latent_of.tolist() == [-1, 0, -1] and mcc(fewer) == pytest.approx(1)


def test_an_assignment_is_one_to_one_and_the_best_there_is():
    true, decoder = np.eye(2, dtype=np.float32), torch.tensor([[1.0, 0], [0.8, 0.6]])
    match = matches(cosines(decoder, true))
    assert match.closest.tolist() == [0, 0] and match.latent_of.tolist() == [0, 1]
    assert mcc(match) == pytest.approx((1 + 0.6) / 2)


def test_firing_by_hand():
    both, fires, expected = np.array([2.0, 0, 0]), np.array([4.0, 0, 3]), np.array([2.0, 5, 0])
    precision, recall, f1 = classification(both, fires, expected)
    assert (precision, recall, f1) == pytest.approx((0.5 / 3, 1 / 3, (2 / 3) / 3))


def test_absorption_by_hand():
    """Features: a parent, its two children, and one that stands alone; five rows."""
    truth = Truth(np.eye(4, dtype=np.float32), np.ones(4) / 4, np.array([-1, 0, 0, -1]), np.zeros(1), np.zeros(0))
    firing = csr_array(np.array([[1, 1, 0, 0], [1, 1, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]))
    decoder = torch.eye(4)
    decoder[1, 0] = 0.5  # the first child's latent carries the parent
    fires = csr_array(np.array([[0, 1, 0, 0], [1, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1.0]]))
    sums = absorption_sums(matches(cosines(decoder, truth.directions)), fires, firing, truth)
    # Row 0: absorbed. 1: the parent's latent speaks. 2: the child's latent carries nothing of it. 3 and 4: no child with it.
    assert sums["parents"].tolist() == [1, 1, 1, 0, 0] and sums["absorbed"].tolist() == [1, 0, 0, 0, 0]
    assert absorption({name: each.sum() for name, each in sums.items()}) == pytest.approx(1 / 3)
    left_over = torch.eye(4)
    left_over[1] = torch.tensor(
        [1.0, 0.2, 0, 0]
    )  # a second latent of the parent, which the child gets for want of its own
    sums = absorption_sums(matches(cosines(left_over, truth.directions)), fires, firing, truth)
    assert sums["parents"].sum() == 3 and sums["absorbed"].sum() == 0


def test_a_parent_without_a_latent_is_not_counted():
    truth = Truth(np.eye(3, dtype=np.float32), np.ones(3) / 3, np.array([-1, 0, 0]), np.zeros(1), np.zeros(0))
    decoder, firing = torch.eye(3)[1:], csr_array(np.array([[1.0, 1, 0]]))
    sums = absorption_sums(matches(cosines(decoder, truth.directions)), csr_array(np.array([[1.0, 0]])), firing, truth)
    assert sums["parents"].tolist() == [0] and np.isnan(absorption({name: each.sum() for name, each in sums.items()}))


def test_a_world_without_a_hierarchy_has_no_absorption():
    truth, firing, x = world_and_rows(200)
    flat = Truth(truth.directions, truth.probability, np.full(64, -1), truth.start, truth.entries)
    found = values(measured(torch.from_numpy(truth.directions), firing, firing, flat, np.arange(len(x))))
    assert set(found) == set(OF_THE_TRUTH) - {"parent_absorption"} and found["f1"] == 1


def test_contexts_not_rows_are_drawn_again():
    """Where all rows of a context have one fate, many rows say little more than few."""
    truth, firing, _ = world_and_rows(4000)
    of_row = np.arange(4000) // 200
    heard = np.random.default_rng(3).random(20) < 0.5  # in the other contexts every latent is silent
    fires = csr_array(firing.toarray() * heard[of_row][:, None])

    def width(context):
        rows = measured(torch.from_numpy(truth.directions), fires, firing, truth, context)
        row = next(row for row in rows if row["metric"] == "recall")
        return row["high"] - row["low"]

    assert width(of_row) > 3 * width(np.arange(4000))
