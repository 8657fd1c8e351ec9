"""Names for latents of saved activations: the text, or a word of the text, that the rows of the highest peaks have in common.

Rows have no tokens inside, so nothing is said about endings, neighbours or numbers. Where the highest rows have in common what
random rows may have, too, a latent stays without a name.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from scipy.stats import binom

from sae_atlas.features.name_patterns import Window, form
from sae_atlas.features.offline_namer import Named, confidence

LEAST = 0.5  # confidence that a name exceeds; one row alone reaches this
LEVEL = 0.01  # probability of as many fitting rows by chance, times the patterns that were tried (Bonferroni), at most


@dataclass(frozen=True)
class Shared:
    """A pattern that a row's text fits: it is `value`, or has it among its words."""

    value: str
    is_whole: bool

    def at_peak(self, window: Window) -> bool:
        return self in patterns(window.tokens[window.peak])

    def anywhere(self, window: Window) -> bool:
        return any(self in patterns(row) for row in window.tokens)

    def __str__(self) -> str:
        return f"“{self.value}”"


@cache
def patterns(row: str) -> frozenset[Shared]:
    """All that the text of a row fits, without capitals."""
    words = re.findall(r"\w+", row.casefold())
    return frozenset([Shared(form(row), True), *(Shared(word, False) for word in words)])


class SharedFrequency:
    """How often patterns fit a random row. documents: windows that hold all rows of a context each."""

    def __init__(self, documents: list[Window]):
        rows = [row for document in documents for row in document.tokens]
        self.rows, self.counts = len(rows), Counter(pattern for row in rows for pattern in patterns(row))

    def rate(self, pattern: Shared) -> float:
        """0 to 1."""
        return self.counts[pattern] / self.rows


def shared_name(windows: list[Window], base: SharedFrequency) -> Named | None:
    """The most confident pattern that is no chance: of equal ones the whole text, then the rarest, then the longest."""
    fitting = Counter(pattern for window in windows for pattern in patterns(window.tokens[window.peak]))
    likely = {pattern: binom.sf(count - 1, len(windows), base.rate(pattern)) for pattern, count in fitting.items()}
    sure = {
        pattern: confidence(pattern, windows, base)
        for pattern, probability in likely.items()
        if probability * len(fitting) <= LEVEL
    }
    best = max(
        sure,
        key=lambda pattern: (sure[pattern], pattern.is_whole, -base.rate(pattern), len(pattern.value), pattern.value),
        default=None,
    )
    return Named(str(best), best, sure[best]) if best and sure[best] > LEAST else None
