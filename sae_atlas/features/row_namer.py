"""Names for latents of saved activations: the text, or a word of the text, that the rows of the highest peaks have in common.

Rows have no tokens inside, so nothing is said about endings, neighbours or numbers. Where the highest rows have no word in
common a latent stays without a name.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from sae_atlas.features.name_patterns import Window, form
from sae_atlas.features.offline_namer import Named, confidence

LEAST = 0.5  # confidence that a name has at least; one row alone reaches this


@dataclass(frozen=True)
class Shared:
    """A pattern that a row's text fits: it is `value`, or has it among its words."""

    value: str
    is_whole: bool

    def at_peak(self, window: Window) -> bool:
        return self.value in parts(window.tokens[window.peak])[not self.is_whole]

    def anywhere(self, window: Window) -> bool:
        return any(self.value in parts(row)[not self.is_whole] for row in window.tokens)

    def __str__(self) -> str:
        return f"“{self.value}”"


@cache
def parts(row: str) -> tuple[frozenset[str], frozenset[str]]:
    """(the text of a row, its words), without capitals."""
    return frozenset([form(row)]), frozenset(re.findall(r"\w+", row.casefold()))


class SharedFrequency:
    """How often patterns fit a random row. documents: windows that hold all rows of a context each."""

    def __init__(self, documents: list[Window]):
        rows = [row for document in documents for row in document.tokens]
        self.rows = len(rows)
        self.counts = Counter(pattern for row in rows for pattern in _patterns(row))

    def rate(self, pattern: Shared) -> float:
        """0 to 1."""
        return self.counts[pattern] / self.rows


def shared_name(windows: list[Window], base: SharedFrequency) -> Named | None:
    """The best pattern of the highest peaks' rows; of equal ones the whole text, then the longest. None if none is likely."""
    patterns = {pattern for window in windows for pattern in _patterns(window.tokens[window.peak])}
    sure = {pattern: confidence(pattern, windows, base) for pattern in patterns}
    best = max(sure, key=lambda pattern: (sure[pattern], pattern.is_whole, len(pattern.value), pattern.value))
    return Named(str(best), best, sure[best]) if sure[best] > LEAST else None


def _patterns(row: str) -> set[Shared]:
    whole, words = parts(row)
    return {Shared(value, True) for value in whole} | {Shared(value, False) for value in words}
