"""Offline names as rules that a window of text fits or does not: a token, a stem, an ending, a topic, ..."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

STEM, ENDING = 4, 3  # letters a stem and an ending have at least


@dataclass(frozen=True)
class Window:
    """Some tokens of one document as strings; `peak` is the index of the latent's peak, -1 if there is none."""

    tokens: tuple[str, ...]
    topic: str | None
    peak: int = -1
    activation: float = 0.0

    @cached_property
    def text(self) -> str:
        return "".join(self.tokens)

    @cached_property
    def forms(self) -> tuple[str, ...]:
        return tuple(map(form, self.tokens))

    @cached_property
    def words(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\w+", self.text.casefold()))

    @cached_property
    def word(self) -> str:
        """The word that the peak lies in, in lower case; empty if it lies in none."""
        ends = np.cumsum([len(token) for token in self.tokens])
        last_letter = int(ends[self.peak]) - 1  # of the token at the peak
        for match in re.finditer(r"\w+", self.text):
            if match.start() <= last_letter < match.end():
                return match[0].casefold()
        return ""


def form(token: str) -> str:
    """A token without the space before it and without capitals; white space alone stays what it is."""
    return token.strip().casefold() or token


@dataclass(frozen=True)
class Rule:
    """kind: token, stem, ending, number, after, before or topic; value: what of it (`before`: several, parted by \\0)."""

    kind: str
    value: str

    def at_peak(self, window: Window) -> bool:
        """Does the window's peak fit?"""
        peak, forms = window.peak, window.forms
        if self.kind == "token":
            return forms[peak] == self.value
        if self.kind in ("stem", "ending"):
            return bool(window.word) and self._fits(window.word)
        if self.kind == "number":
            return forms[peak].isdigit()
        if self.kind == "after":
            return peak > 0 and forms[peak - 1] == self.value
        if self.kind == "before":
            return peak + 1 < len(forms) and forms[peak + 1] in self.value.split("\0")
        return window.topic == self.value

    def anywhere(self, window: Window) -> bool:
        """Does any token or word of the window fit? So a name predicts whether the latent fires when the peak is not known."""
        if self.kind in ("token", "after"):
            return self.value in window.forms
        if self.kind in ("stem", "ending"):
            return any(map(self._fits, window.words))
        if self.kind == "number":
            return any(each.isdigit() for each in window.forms)
        if self.kind == "before":
            return not set(self.value.split("\0")).isdisjoint(window.forms)
        return window.topic == self.value

    def _fits(self, word: str) -> bool:
        return word.startswith(self.value) if self.kind == "stem" else word.endswith(self.value)

    def __str__(self) -> str:
        quoted = ", ".join(f"“{_visible(value)}”" for value in self.value.split("\0"))
        return {
            "token": quoted,
            "stem": f"“{self.value}…”",
            "ending": f"“…{self.value}”",
            "number": "a number",
            "after": f"after {quoted}",
            "before": f"before {quoted}",
            "topic": self.value,
        }[self.kind]


def _visible(value: str) -> str:
    return value if value.strip() else repr(value)[1:-1].replace(" ", "␣")


class PatternFrequency:
    """How often rules fit at a random token of the text. documents: windows that hold a whole document each."""

    def __init__(self, documents: list[Window]):
        self.topics, self.forms, self.words = {}, {}, {}
        for document in documents:
            self.topics[document.topic] = self.topics.get(document.topic, 0) + 1
            for each in document.forms:
                self.forms[each] = self.forms.get(each, 0) + 1
            for word in document.words:
                for part in {("stem", each) for each in stems(word)} | {("ending", each) for each in endings(word)}:
                    self.words[part] = self.words.get(part, 0) + 1
        self.documents, self.tokens = len(documents), sum(self.forms.values())
        self.numbers = sum(count for each, count in self.forms.items() if each.isdigit())

    def rate(self, rule: Rule) -> float:
        """0 to 1."""
        if rule.kind == "topic":
            return self.topics.get(rule.value, 0) / self.documents
        if rule.kind in ("stem", "ending"):
            return self.words.get((rule.kind, rule.value), 0) / self.tokens
        if rule.kind == "number":
            return self.numbers / self.tokens
        return sum(self.forms.get(value, 0) for value in rule.value.split("\0")) / self.tokens


def stems(word: str) -> list[str]:
    """Beginnings of a word that could be its stem, shortest first."""
    return [word[:end] for end in range(STEM, len(word) + 1)] if word.isalpha() else []


def endings(word: str) -> list[str]:
    """Endings of a word that leave a stem, shortest first."""
    return [word[-size:] for size in range(ENDING, len(word) - ENDING + 1)] if word.isalpha() else []
