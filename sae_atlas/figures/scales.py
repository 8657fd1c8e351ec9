"""The colour scale of a metric: worst to best, in the direction that is better for it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sae_atlas.figures.style import DECADE

LEAST_SPAN = 0.05  # of the largest value: smaller differences do not get the whole colour scale
FENCE = 3.0  # interquartile ranges beyond which a value is clipped to the scale's end


@dataclass(frozen=True)
class Scale:
    """Maps values of one metric to 0 (worst) .. 1 (best).

    `low` and `high` are its ends, both finite; where 1 is best, `low` is the end away from it and `high` is 1.
    """

    better: str
    low: float
    high: float
    log: bool

    def __call__(self, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, dtype=float)
        if self.better == "one":
            return 1 - np.clip(np.abs(values - 1) / abs(self.low - 1), 0, 1)
        ends = np.array([self.low, self.high])
        if self.log:
            values, ends = np.log(np.maximum(values, self.low)), np.log(ends)
        position = np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)
        return 1 - position if self.better == "down" else position

    @property
    def ends(self) -> tuple[float, float]:
        """Values at the left (0) and right (1) end of the colour strip."""
        if self.better == "one":
            return self.low, self.high
        return (self.high, self.low) if self.better == "down" else (self.low, self.high)


def scale_of(better: str, values: np.ndarray) -> Scale:
    """The scale of a metric from all its values: log where they span decades, extreme values clipped to its ends."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return Scale(better, 0.0, 1.0, False)
    if better == "one":
        span = max(_upper_end(np.abs(values - 1)), LEAST_SPAN)
        return Scale(better, 1 + span if np.median(values) > 1 else 1 - span, 1.0, False)
    if values.min() > 0 and values.max() / values.min() > DECADE:  # far outside means far on the log axis
        logs = np.log(values)
        low, high = np.exp(-_upper_end(-logs)), np.exp(_upper_end(logs))
        if high / low > DECADE:
            return Scale(better, float(low), float(high), True)
    low, high = -_upper_end(-values), _upper_end(values)
    least = LEAST_SPAN * (max(abs(low), abs(high)) or 1.0)
    if high - low < least:  # keep the better end where it is
        low, high = (low, low + least) if better == "down" else (high - least, high)
    return Scale(better, low, high, False)


def _upper_end(values: np.ndarray) -> float:
    lower, upper = np.quantile(values, [0.25, 0.75])
    inside = values[values <= upper + FENCE * max(upper - lower, 1e-12)]
    return float(inside.max())


def value_text(value: float) -> str:
    """About three digits in at most six characters: 0.953, 0.0043, 32.1, 147, 1204, 12.7k, 3e-4."""
    size = abs(value)
    if not np.isfinite(value):
        return "–"
    if size >= 999_500:
        return f"{value / 1e6:.3g}M"
    if size >= 9999.5:
        return f"{value / 1000:.3g}k"
    if size >= 99.95 or float(value).is_integer():
        return f"{value:.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.00995:
        return f"{value:.3f}"
    if size >= 0.000995:
        return f"{value:.4f}"
    return f"{value:.0e}".replace("e-0", "e-")


def pivot(metrics: pd.DataFrame, metric: str, column: str = "value") -> pd.DataFrame:
    """Snapshots (rows, in order of their tokens) x layers (columns, ascending) of one metric."""
    rows = metrics[metrics["metric"] == metric]
    order = metrics.drop_duplicates("snapshot").sort_values("tokens")["snapshot"]
    table = rows.pivot(index="snapshot", columns="layer", values=column)
    return table.reindex(index=list(order), columns=sorted(metrics["layer"].unique()))
