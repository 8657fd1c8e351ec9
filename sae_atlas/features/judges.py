"""Who predicts where a latent fires, in trials (features.trials): the rule behind an offline name, or a language model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sae_atlas.features.endpoint import Endpoint
from sae_atlas.features.model_namer import intruder_question, odd_one_out, pick, picking_question
from sae_atlas.features.name_patterns import Window
from sae_atlas.features.offline_namer import Named
from sae_atlas.features.trials import Trials


class OfflineJudge:
    """name_of: gives marked windows a name, or None."""

    source = "offline"

    def __init__(self, name_of: Callable[[list[Window]], Named | None]):
        self.name_of = name_of

    def detects(self, named: Named, windows: list[Window]) -> np.ndarray:
        """Does the name fit anywhere in each window? [windows] bool."""
        return self._fit(named, "anywhere", windows)

    def fits_marks(self, named: Named, windows: list[Window]) -> np.ndarray:
        """Does the name fit the marked token of each window? [windows] bool."""
        return self._fit(named, "at_peak", windows)

    def intruders(self, windows: list[Window]) -> np.ndarray:
        """Probability of being the one that does not belong, [windows]: equal for those that the name of all does not fit."""
        alike = [replace(window, activation=1.0) for window in windows]
        named = self.name_of(alike)
        odd = ~self._fit(named, "at_peak", alike) if named else np.ones(len(alike), bool)
        return odd / odd.sum() if odd.any() else np.full(len(odd), 1 / len(odd))

    @staticmethod
    def _fit(named: Named, how: str, windows: list[Window]) -> np.ndarray:
        return np.array([named.rule is not None and getattr(named.rule, how)(each) for each in windows], bool)


class ModelJudge:
    """Each answer is None where the model gave none that can be read."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint, self.source = endpoint, endpoint.model

    @staticmethod
    def questions(name: str, trials: Trials) -> list[list[dict]]:
        """Messages of all that it is asked about a latent of that name."""
        asked = [picking_question(name, trials.windows)] if trials.windows else []
        asked += [picking_question(name, trials.marked, are_marked=True)] if trials.marked else []
        return asked + [intruder_question(each.windows) for each in trials.intruders]

    def detects(self, named: Named, windows: list[Window]) -> np.ndarray | None:
        """Does the model expect the latent to fire anywhere in each window? [windows] bool."""
        return pick(self.endpoint, named.name, windows)

    def fits_marks(self, named: Named, windows: list[Window]) -> np.ndarray | None:
        """Does it expect the latent to fire at the marked token of each window? [windows] bool."""
        return pick(self.endpoint, named.name, windows, are_marked=True)

    def intruders(self, windows: list[Window]) -> np.ndarray | None:
        """1 for the window that it takes for the intruder, else 0, [windows]."""
        return odd_one_out(self.endpoint, windows)
