"""The fits of measured on predicted floors: exact on exact data, honest where nothing is determined."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sae_atlas.floors.fit import affine, fit_floors, judge, power
from sae_atlas.io.tables import read_table, write_table

WIDTHS = np.repeat([8.0, 16.0, 32.0, 64.0], 2)
PREDICTED = np.repeat([9.0, 4.0, 2.0, 0.5], 2)


def test_an_exact_line_is_found_exactly():
    found = judge(affine, PREDICTED, 3 * PREDICTED + 2, WIDTHS)
    for name, value in {"scale": 3, "scale_low": 3, "scale_high": 3, "other": 2, "other_low": 2, "r2": 1}.items():
        assert found[name] == pytest.approx(value), name
    assert found["error"] == pytest.approx(0, abs=1e-9)


def test_an_exact_curve_is_found_exactly():
    found = judge(power, WIDTHS, 5 * WIDTHS**-0.3, WIDTHS)
    assert (found["scale"], found["other"], found["r2"]) == pytest.approx((5, -0.3, 1))
    assert found["error"] == pytest.approx(0, abs=1e-6)


def test_the_error_is_of_widths_left_out():
    # Without the third width the line through the others is y = 0, so it errs by 1 there, and by what follows elsewhere.
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0])
    # left out 0: y = x - 1 says -1; left out 1: y = x / 2 says 1/2; left out 2: 0.
    assert judge(affine, x, y, np.array([8, 16, 32]))["error"] == pytest.approx(math.sqrt((1 + 0.25 + 1) / 3))
    assert judge(affine, x, y, np.array([8, 16, 32]))["r2"] == pytest.approx(0.75)


def test_what_is_not_determined_is_nan():
    constant = judge(affine, np.zeros(8), WIDTHS, WIDTHS)  # every width keeps all latents
    assert all(math.isnan(constant[name]) for name in ("scale", "scale_low", "r2", "error"))
    one = judge(power, np.full(2, 8.0), np.array([1.0, 1.1]), np.full(2, 8.0))
    assert math.isnan(one["scale"]) and math.isnan(one["error"])


def test_the_table_of_fits(tmp_path):
    floors = [
        {"layer": layer, "formula": formula, "width": width, "floor": factor / width}
        for layer in (0, 5)
        for formula, factor in (("published", 1.0), ("zipf", 2.0), ("uniform", 0.0))
        for width in (4, 8, 16, 32, 64)
    ]
    students = [
        {"width": int(width), "seed": place % 2, "step": step, "floor": 40 / width + 1}
        for place, width in enumerate(WIDTHS)
        for step in (1, 2)
    ]
    for name, rows in (("floors", floors), ("students", students)):
        write_table(tmp_path / name, pa.Table.from_pandas(pd.DataFrame(rows)))
    fit_floors(tmp_path / "floors", tmp_path / "students", tmp_path / "fit", "topk")
    table = read_table(tmp_path / "fit")
    assert len(table) == 1 + 2 * 3 and set(table.students) == {8}
    lines = table[(table.layer == 5) & (table.model == "affine")].set_index("formula")
    assert lines.scale["published"] == pytest.approx(40) and lines.scale["zipf"] == pytest.approx(20)
    assert lines.other["zipf"] == pytest.approx(1) and math.isnan(lines.r2["uniform"])
    curve = table[table.model == "power"].iloc[0]
    assert 0.9 < curve.r2 < 1 and curve.error > 0.01  # no power of the width has this offset
