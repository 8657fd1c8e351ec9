"""Names without a language model: the rule that best explains a latent's highest peaks, corrected for chance."""

from collections import Counter
from dataclasses import dataclass

from sae_atlas.features.name_patterns import PatternFrequency, Rule, Window, endings, form, stems

SECOND = 0.5  # confidence from which the topic is named beside a word
BROKEN = "\ufffd"  # stands for a part of a letter
UNNAMED = "no pattern found"


@dataclass(frozen=True)
class Named:
    """A name, the rule it stands for (None: a sentence of a model, or no pattern), and how sure that is, 0 to 1."""

    name: str
    rule: Rule | None
    confidence: float


def offline_name(windows: list[Window], promoted: list[str], base: PatternFrequency) -> Named:
    """Name a latent after the windows of its highest peaks (at least one) and the tokens that its decoder promotes."""
    sure = {rule: confidence(rule, windows, base) for rule in candidates(windows, promoted)}
    best = max(sure, key=sure.get)  # of equal ones the first
    if sure[best] == 0:
        return Named(UNNAMED, None, 0.0)
    topic = next((rule for rule in sure if rule.kind == "topic" and sure[rule] >= SECOND and rule != best), None)
    return Named(f"{best} ({topic})" if topic else str(best), best, sure[best])


def candidates(windows: list[Window], promoted: list[str]) -> list[Rule]:
    """The rules worth trying: of each kind what fits most of the activation."""
    shares = {kind: Counter() for kind in ("token", "stem", "ending", "after", "topic")}
    for window in windows:
        weight = window.activation
        shares["token"][window.forms[window.peak]] += weight
        for stem in stems(window.word):
            shares["stem"][stem] += weight
        for ending in endings(window.word):
            shares["ending"][ending] += weight
        if window.peak > 0:
            shares["after"][window.forms[window.peak - 1]] += weight
        if window.topic is not None:
            shares["topic"][window.topic] += weight
    rules = []
    for kind, share in shares.items():
        share = {value: weight for value, weight in share.items() if BROKEN not in value}
        if share:  # of equally frequent stems the longest says most
            rules.append(Rule(kind, max(share, key=lambda value: (share[value], len(value)))))
    if promoted:
        rules.append(Rule("before", "\0".join(dict.fromkeys(map(form, promoted[:3])))))
    return [*rules, Rule("number", "")]


def confidence(rule: Rule, windows: list[Window], base: PatternFrequency) -> float:
    """(share - chance) / (1 - chance), times n / (n + 1) for n windows; 0 to 1.

    share: of the activation at the peaks, those that the rule fits; chance: how often it fits anywhere in the text (as
    Cohen's kappa corrects agreement).
    """
    total = sum(window.activation for window in windows)
    share = sum(window.activation for window in windows if rule.at_peak(window)) / total
    chance = base.rate(rule)
    if chance >= 1:
        return 0.0
    return max(0.0, (share - chance) / (1 - chance)) * len(windows) / (len(windows) + 1)
