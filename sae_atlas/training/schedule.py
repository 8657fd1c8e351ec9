"""Schedules: warm-ups and the cosine in steps, the learning rate's linear decay and the annealed penalty in tokens."""

import math

# Of all tokens, and how many values the power of a penalty has: as dictionary_learning has them.
ANNEALED_FROM, POWERS = 0.1, 10


def warmed_up(step: int, steps: int) -> float:
    """Factor of step number `step` (from 0) in a linear rise over `steps` steps."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def decayed(tokens: float, total: int | None, fraction: float) -> float:
    """Factor after `tokens` of `total`: 1, then linear to 0 over the last `fraction`. 1 where total is None."""
    if total is None or not fraction:
        return 1.0
    return min(1.0, max(0.0, (total - tokens) / (fraction * total)))


def annealed(tokens: float, total: int | None, end: float | None) -> float:
    """Power p of a penalty sum of f^p after `tokens` of `total` (arXiv 2408.00113): 1, then in equal steps down to `end`.

    1 where `end` or `total` is None.
    """
    if end is None or total is None:
        return 1.0
    passed = max(0.0, tokens / total - ANNEALED_FROM) / (1 - ANNEALED_FROM)
    return 1 + (end - 1) * min(POWERS - 1, int(passed * POWERS)) / (POWERS - 1)


def cosine(step: int, steps: int, warmup: int, last: float = 0.0) -> float:
    """Factor of step number `step` (from 0) of `steps`: a linear rise over `warmup` of them, then a cosine from 1 to `last`."""
    if step < warmup:
        return warmed_up(step, warmup)
    return last + (1 - last) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
