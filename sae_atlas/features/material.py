"""What names are made of and tried on: windows of the highest peaks, windows of lower ones, windows of silent documents."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sae_atlas.features.detection import Trial, make_trial
from sae_atlas.features.rules import Window


@dataclass(frozen=True)
class Latent:
    """What a latent is named after, and what its name is tried on."""

    windows: list[Window]
    promoted: list[str]
    trial: Trial


class Decoder:
    """Token ids to strings, each decoded once."""

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}

    def __call__(self, tokens) -> tuple[str, ...]:
        return tuple(self._one(token) for token in tokens.tolist())

    def _one(self, token: int) -> str:
        if token not in self.known:
            self.known[token] = self.tokenizer.decode([token])
        return self.known[token]


class Texts:
    """The documents that were read, whole and cut into windows; `documents` without a peak, to count in."""

    def __init__(self, raw: pd.DataFrame, topics: np.ndarray, window: int, decode: Decoder):
        self.topics = topics
        self.documents = [Window(decode(row.tokens), topics[row.document]) for row in raw.itertuples()]
        self.windows, owner = [], []
        for row in raw.itertuples():
            breaks = np.flatnonzero(np.diff(row.positions) != 1) + 1  # where another context goes on with it
            for piece in np.split(row.tokens, breaks):
                for first in range(0, len(piece), window):
                    self.windows.append(Window(decode(piece[first : first + window]), topics[row.document]))
                    owner.append(row.document)
        self.owner = np.array(owner)


def gather(
    contexts: pd.DataFrame, documents: pd.DataFrame, about: pd.DataFrame, texts: Texts, decode: Decoder, seed: int
) -> dict[int, Latent]:
    """Latents with contexts: the highest band to name them after, the lower ones and silent documents to try names on."""
    fires = documents.groupby("latent").document.apply(np.array)
    promoted = dict(zip(about.latent, about.promoted, strict=True))
    found = {}
    for number, rows in contexts.groupby("latent"):
        top, lower = rows[rows.band == "top"], rows[rows.band != "top"]
        lower = lower[~lower.document.isin(top.document)].drop_duplicates("document")
        silent = np.flatnonzero(~np.isin(texts.owner, fires[number]))
        generator = np.random.default_rng([seed, number])
        drawn = generator.choice(silent, min(len(lower), len(silent)), replace=False)
        trial = make_trial(_windows(lower, texts, decode), [texts.windows[i] for i in drawn], generator)
        found[int(number)] = Latent(_windows(top, texts, decode), list(promoted[number]), trial)
    return found


def _windows(rows: pd.DataFrame, texts: Texts, decode: Decoder) -> list[Window]:
    return [
        Window(decode(row.tokens), texts.topics[row.document], int(row.peak), float(row.activation))
        for row in rows.itertuples()
    ]
