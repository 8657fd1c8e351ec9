"""The controller that moves lambda until the L0 of an L1 recipe meets its target."""

import math

SMOOTHING = 0.1  # weight of the newest step in the smoothed L0
GAIN = 0.05  # step of log(lambda) per unit of log(L0 / target)
LARGEST_STEP = 0.05  # of log(lambda) per training step
RANGE = math.log(1000.0)  # lambda stays within this factor of where it started
CONVERGED = 0.05  # relative distance of the mean L0 to its target


def smooth(previous: float | None, l0: float) -> float:
    """Exponential average of the L0."""
    return l0 if previous is None else previous + SMOOTHING * (l0 - previous)


def adapt(penalty: float, start: float, smoothed_l0: float, target_l0: float) -> float:
    """The next lambda: its log moves by the log-ratio of the smoothed L0 to its target, bounded in step and range."""
    error = math.log(max(smoothed_l0, 1e-3) / target_l0)
    change = max(-LARGEST_STEP, min(LARGEST_STEP, GAIN * error))
    away = math.log(penalty / start) + change
    return start * math.exp(max(-RANGE, min(RANGE, away)))
