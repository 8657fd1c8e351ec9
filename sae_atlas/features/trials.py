"""Trials of names and latents on windows of documents that the name was not made from.

Detection, fuzzing: does the name predict in which windows, or at which marked tokens, the latent fires (Paulo et al. 2024,
arXiv 2410.13928)? Half of the windows hold a peak and half none. Those with a peak are a random sample of the other peaks, so
a name that fits the highest peaks alone scores low.

Intruder: of some windows with a peak and one without, can the one without be told, no name given (Paulo and Belrose 2025, arXiv
2507.08473)? A score of the latent rather than of its name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sae_atlas.features.name_patterns import Window

LEAST = 4  # windows of a trial; with fewer available it is empty
ODD_ONE_OUT = 5  # windows among which an intruder is: chance is a fifth
# Scores beside detection -> the columns that they have in tables of names, by type.
FURTHER = {
    "fuzzing": {"fuzzing": np.float32},  # on as many windows as detection
    "intruder": {"intruder": np.float32, "intruder_trials": np.int32},
}


@dataclass(frozen=True)
class Trial:
    """Windows in a random order; `fires`: does the latent fire in them?"""

    windows: list[Window]
    fires: np.ndarray


def make_trial(held_out: list[Window], silent: list[Window], generator: np.random.Generator) -> Trial:
    """As many of `held_out` (it fires) as of `silent` (it does not); empty if there are too few of either."""
    count = min(len(held_out), len(silent))
    if 2 * count < LEAST:
        return Trial([], np.zeros(0, bool))
    chosen = [each[i] for each in (held_out, silent) for i in generator.choice(len(each), count, replace=False)]
    order = generator.permutation(2 * count)
    return Trial([chosen[i] for i in order], order < count)


@dataclass(frozen=True)
class Trials:
    """Of a latent: `windows` and `fires` of detection; the same windows with marks for fuzzing; those of intruders.

    Nothing of what is not asked for.
    """

    windows: list[Window]
    fires: np.ndarray
    marked: list[Window]
    intruders: list[Trial]


def trials_of(trial: Trial, scores: Sequence[str], seed: Sequence[int]) -> Trials:
    """scores: `fuzzing`, `intruder` or both, on the windows of a trial of detection."""
    if not scores:
        return Trials(trial.windows, trial.fires, [], [])
    generator = np.random.default_rng(seed)
    marked = marked_windows(trial, generator)
    intruders = intruder_trials(marked, trial.fires, generator) if "intruder" in scores else []
    return Trials(trial.windows, trial.fires, marked if "fuzzing" in scores else [], intruders)


def marked_windows(trial: Trial, generator: np.random.Generator) -> list[Window]:
    """The windows with a token marked in each, as `peak`: where the latent peaks, or a random one where it does not fire."""
    return [
        window if fires else replace(window, peak=int(generator.integers(len(window.tokens))))
        for window, fires in zip(trial.windows, trial.fires, strict=True)
    ]


def intruder_trials(windows: list[Window], fires: np.ndarray, generator: np.random.Generator) -> list[Trial]:
    """Trials of ODD_ONE_OUT marked windows in a random order, in one of which the latent does not fire; each window once."""
    firing, silent = np.flatnonzero(fires), np.flatnonzero(~fires)
    size = ODD_ONE_OUT - 1
    trials = []
    for first, intruder in zip(range(0, len(firing) - size + 1, size), silent, strict=False):
        chosen = generator.permutation([*firing[first : first + size], intruder])
        trials.append(Trial([windows[i] for i in chosen], fires[chosen]))
    return trials
