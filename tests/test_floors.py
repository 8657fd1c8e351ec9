"""Predicted floors: hand-computed ones, the two shapes of the audit, intervals, and what is refused."""

import math

import numpy as np
import pyarrow as pa
import pytest

from sae_atlas.floors.formula import distance, n_retained, tail_sums
from sae_atlas.floors.predict import layer_floors, predict_floors
from sae_atlas.io.tables import read_table, write_table
from sae_atlas.metrics.importance import alpha, capacity

ZIPF, UNIFORM = 1 / np.arange(1, 101), np.full(100, 3.0)


def by_formula(energy, active, tokens, width) -> dict:
    return {
        row["formula"]: row for row in layer_floors(np.array(energy, float), *map(np.array, (active, tokens)), [width])
    }


def test_kept_and_floor_by_hand():
    # L0 = 1 of 4 alive latents: 1 - alpha = 1/4, g = 4 / ln 4 = 2.885; at width 1 the formula keeps 2 of them.
    found = by_formula([[8, 4, 2, 1, 0]], [2], [2], 1)
    published = found["published"]
    assert published["g"] == pytest.approx(4 / math.log(4)) and published["alpha"] == 0.75
    assert published["d_star"] == pytest.approx(math.log(4))
    assert (published["alive"], published["kept"], published["total"]) == (4, 2, 7.5)
    assert (published["floor"], published["share"]) == (1.5, 3 / 15)
    assert math.isnan(published["low"])  # one block has no interval
    # 1.03 x 2.885^0.53 = 1.806 and 0.93 x 2.885^0.93 = 2.492
    assert (found["zipf"]["kept"], found["zipf"]["floor"]) == (1, 3.5)
    assert (found["uniform"]["kept"], found["uniform"]["floor"]) == (2, 1.5)


def test_a_published_layer():
    """Layer 12 of the published work: 28,665 alive, L0 218.29; F_S is 3,446 at 128 and 27,568 at 1,024, d* 1,064.7."""
    g = capacity(alpha(218.29, 28_665))
    assert [n_retained(width, g, 28_665, "published") for width in (128, 1024)] == pytest.approx([3446, 27568], abs=2)
    assert 28_665 / g == pytest.approx(1064.7, abs=0.2)


def test_all_is_kept_from_d_star_on_and_the_corrections_keep_less():
    g, latents = capacity(0.99), 3000
    d_star = latents / g
    assert n_retained(math.floor(d_star), g, latents, "published") < latents
    assert (
        n_retained(math.ceil(d_star), g, latents, "published") == n_retained(10**6, g, latents, "published") == latents
    )
    counts = [n_retained(64, g, latents, formula) for formula in ("zipf", "uniform", "published")]
    assert counts == sorted(counts)
    assert n_retained(64, math.inf, latents, "zipf") == latents


def test_tails_of_uniform_and_zipf():
    assert tail_sums(UNIFORM) == pytest.approx(3.0 * np.arange(100, -1, -1))
    assert tail_sums(ZIPF)[[0, 10, 100]] == pytest.approx([ZIPF.sum(), ZIPF[10:].sum(), 0])
    assert tail_sums(np.array([1.0, 1e-20, 1e-20]))[1] == 2e-20  # not lost beside the head


def test_the_shape_a_spectrum_is_nearer_to():
    assert distance(UNIFORM, "uniform") == pytest.approx(0) and distance(ZIPF, "zipf") == pytest.approx(0)
    # Two latents: shares 2/3 and 1/3 against 1/2 and 1/2.
    assert distance(np.array([2.0, 1.0]), "uniform") == distance(np.ones(2), "zipf") == pytest.approx(1 / 6)
    assert by_formula([ZIPF * 1.1], [5], [1], 1)["published"]["nearer"] == "zipf"
    assert by_formula([UNIFORM], [5], [1], 1)["published"]["nearer"] == "uniform"
    assert math.isnan(distance(np.zeros(3), "zipf"))


def test_the_interval_holds_the_floor_and_is_nothing_where_all_blocks_are_alike():
    noise = np.random.default_rng(0)
    energy = ZIPF * noise.lognormal(0, 0.5, (32, 100))
    uneven = by_formula(energy, noise.integers(400, 600, 32), np.full(32, 100), 4)
    assert all(row["low"] < row["floor"] < row["high"] for row in uneven.values())
    alike = by_formula(np.tile(ZIPF, (32, 1)), np.full(32, 500), np.full(32, 100), 4)["zipf"]
    assert alike["low"] == pytest.approx(alike["floor"]) == alike["high"]


def test_a_layer_without_a_living_latent_has_no_floor():
    row = by_formula([[0, 0], [0, 0]], [0, 0], [5, 5], 8)["published"]
    assert row["alive"] == row["kept"] == 0 and math.isnan(row["share"])


def test_the_table_of_a_recipe(tmp_path):
    blocks = {layer: tmp_path / f"{layer}.parquet" for layer in (3, 7)}
    for layer, path in blocks.items():
        energy = [ZIPF.astype(np.float32) * layer] * 2
        write_table(path, pa.table({"tokens": [4, 4], "active": [20, 20], "energy": energy}))
    predict_floors(blocks.values(), list(blocks), tmp_path / "floors.parquet", "topk", [2, 8])
    table = read_table(tmp_path / "floors.parquet")
    assert table.groupby(["layer", "width", "formula"]).size().eq(1).all() and len(table) == 12
    totals = table.groupby("layer").total.first()
    assert totals[7] / totals[3] == pytest.approx(7 / 3)
