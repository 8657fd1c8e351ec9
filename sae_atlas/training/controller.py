"""The controller that moves lambda until the L0 of an L1 recipe meets its target."""

import math

import torch
from torch import Tensor

SMOOTHING = 0.1  # weight of the newest step in the smoothed L0
GAIN = 0.05  # step of log(lambda) per unit of log(L0 / target)
APPROACH = 0.015  # largest such step: a lambda that rises faster kills latents before L0 has followed it
DAMPING = 0.75  # of log(lambda) per unit that log(L0) moved in the last step; without it L0 falls far below the target
LARGEST_STEP = 0.05  # of log(lambda) per training step, both together
RANGE = math.log(1000.0)  # lambda stays within this factor of where it started
CONVERGED = 0.05  # relative distance of the mean L0 to its target


def smooth(previous: float | Tensor | None, l0: float | Tensor) -> float | Tensor:
    """Exponential average of the L0."""
    return l0 if previous is None else previous + SMOOTHING * (l0 - previous)


def adapt(
    penalty: float | Tensor, start: float, before: float | Tensor | None, now: float | Tensor, target_l0: float
) -> float | Tensor:
    """The next lambda: a proportional-integral controller in velocity form, bounded in step and range.

    before, now: the smoothed L0 before and after the newest step (before the first there is none). log(lambda) moves by
    the log-ratio of L0 to its target, and by how L0 itself has moved. Of an L0 on a device it stays there.
    """
    before = now if before is None else before
    l0, last = (torch.as_tensor(each, dtype=torch.float64).clamp(min=1e-3) for each in (now, before))
    change = (GAIN * (l0 / target_l0).log()).clamp(-APPROACH, APPROACH) + DAMPING * (l0 / last).log()
    moved = (torch.as_tensor(penalty, dtype=torch.float64) / start).log() + change.clamp(-LARGEST_STEP, LARGEST_STEP)
    moved = start * moved.clamp(-RANGE, RANGE).exp()
    return moved if isinstance(now, Tensor) else float(moved)
