"""How well predicted floors fit measured ones, compared with a curve that does not use the latents."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.optimize import OptimizeWarning, curve_fit

from sae_atlas.io.tables import read_table, write_table
from sae_atlas.metrics.bootstrap import LEVEL, resamples

UNDETERMINED = (np.nan, np.nan)


def fit_floors(floors: str | Path, students: str | Path, table: str | Path, recipe: str) -> None:
    """Write a row per fit of the students' floors (floors.distill): affine in the prediction of every layer and formula
    (floors.predict), and the uninformed curve.

    Affine: measured = scale x predicted + other, in nats per squared activation and nats. Power: measured = scale x
    width^other. r2: 1 - squared residuals over those about the mean. error: root mean square of what a fit without a width
    says of that width, in nats: students of one width are too alike to be left out one by one. Intervals: 95 %, bootstrap
    over students. NaN where a fit is not determined.
    """
    predicted = read_table(floors)
    measured = read_table(students).drop_duplicates(["width", "seed"])
    widths, y = measured["width"].to_numpy(float), measured["floor"].to_numpy()
    rows = [{"model": "power", "layer": -1, "formula": "", **judge(power, widths, y, widths)}]
    for (layer, formula), each in predicted.groupby(["layer", "formula"], sort=False):
        x = each.set_index("width")["floor"].loc[measured["width"]].to_numpy()
        rows.append({"model": "affine", "layer": layer, "formula": formula, **judge(affine, x, y, widths)})
    fits = pd.DataFrame(rows).assign(recipe=recipe, students=len(measured))
    write_table(table, pa.Table.from_pandas(fits, preserve_index=False))


def affine(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(C, B) of the least-squares line y = C x + B. NaN unless there are two different x."""
    if len(np.unique(x)) < 2:
        return UNDETERMINED
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())


def power(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(a, b) of the least-squares curve y = a x^b, started at the line through the logarithms. NaN unless x differ."""
    if len(np.unique(x)) < 2 or (y <= 0).any():
        return UNDETERMINED
    slope, offset = affine(np.log(x), np.log(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # two points have no covariance, which is not used
        try:
            scale, exponent = curve_fit(lambda x, a, b: a * x**b, x, y, p0=(np.exp(offset), slope))[0]
        except RuntimeError:  # it does not converge
            return UNDETERMINED
    return float(scale), float(exponent)


def judge(fit, x: np.ndarray, y: np.ndarray, widths: np.ndarray) -> dict:
    """The fit of y on x [students], its intervals, R^2 and error on widths left out."""
    predict = {affine: lambda scale, other, x: scale * x + other, power: lambda scale, other, x: scale * x**other}[fit]
    scale, other = fit(x, y)
    left_out = np.full(len(y), np.nan)
    for width in np.unique(widths):
        out = widths == width
        left_out[out] = predict(*fit(x[~out], y[~out]), x[out]) if not out.all() else np.nan
    spread = ((y - y.mean()) ** 2).sum()
    drawn = np.array([fit(*np.repeat([x, y], times, axis=1)) for times in resamples(len(y))])
    drawn = drawn[np.isfinite(drawn).all(axis=1)]
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0) if len(drawn) else np.full((2, 2), np.nan)
    return {
        "scale": scale,
        "scale_low": ends[0, 0],
        "scale_high": ends[1, 0],
        "other": other,
        "other_low": ends[0, 1],
        "other_high": ends[1, 1],
        "r2": 1 - float(((y - predict(scale, other, x)) ** 2).sum() / spread) if spread else np.nan,
        "error": float(np.sqrt(np.mean((y - left_out) ** 2))),
    }
