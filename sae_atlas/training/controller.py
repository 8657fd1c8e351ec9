"""The controller that moves lambda until the L0 of an L1 recipe meets its target."""

import math

import torch
from torch import Tensor

SMOOTHING = 0.1  # weight of the newest step in the smoothed L0
GAIN = 0.05  # step of log(lambda) per unit of log(L0 / target)
LARGEST_STEP = 0.05  # of log(lambda) per training step
RANGE = math.log(1000.0)  # lambda stays within this factor of where it started
CONVERGED = 0.05  # relative distance of the mean L0 to its target


def smooth(previous: float | Tensor | None, l0: float | Tensor) -> float | Tensor:
    """Exponential average of the L0."""
    return l0 if previous is None else previous + SMOOTHING * (l0 - previous)


def adapt(penalty: float | Tensor, start: float, smoothed_l0: float | Tensor, target_l0: float) -> float | Tensor:
    """The next lambda: its log moves by the log-ratio of the smoothed L0 to its target, bounded in step and range.

    Of a smoothed L0 on a device it stays there.
    """
    now, l0 = (torch.as_tensor(each, dtype=torch.float64) for each in (penalty, smoothed_l0))
    change = (GAIN * (l0.clamp(min=1e-3) / target_l0).log()).clamp(-LARGEST_STEP, LARGEST_STEP)
    moved = start * ((now / start).log() + change).clamp(-RANGE, RANGE).exp()
    return moved if isinstance(smoothed_l0, Tensor) else float(moved)
