"""Windows that names are made from and tested on: of the highest peaks, of other peaks, and of documents without any."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sae_atlas.features.decoder import Decoder
from sae_atlas.features.name_patterns import Window
from sae_atlas.features.trials import Trial, make_trial

TRIED = 20  # windows with the latent, and as many without, that a name is tried on


@dataclass(frozen=True)
class Latent:
    """What a latent is named after, and the windows that its name is tested on."""

    windows: list[Window]
    promoted: list[str]
    trial: Trial


class Texts:
    """The documents that were read: `whole`, a window without a peak for each; `pieces`, windows of `size` tokens, with
    the document of each in `owner`. A window stays within what one context holds of its document.
    """

    def __init__(self, raw: pd.DataFrame, topics: np.ndarray, size: int, decode: Decoder):
        self.topics, self.size = topics, size
        self.rows = {row.document: row for row in raw.itertuples()}
        self.strings = {document: decode(row.tokens) for document, row in self.rows.items()}
        self.whole = [Window(strings, topics[document]) for document, strings in self.strings.items()]
        self.bounds, self.pieces, owner = {}, [], []
        for document, row in self.rows.items():
            breaks = np.flatnonzero(np.diff(row.positions) != 1) + 1  # where the document continues in another context
            self.bounds[document] = np.concatenate([[0], breaks, [len(row.tokens)]])
            for low, high in zip(self.bounds[document][:-1], self.bounds[document][1:], strict=True):
                for first in range(low, high, size):
                    self.pieces.append(
                        Window(self.strings[document][first : min(first + size, high)], topics[document])
                    )
                    owner.append(document)
        self.owner = np.array(owner)

    def around(self, document: int, row: int, activation: float) -> Window:
        """The window around a peak on token `row` of what was read of a document."""
        bounds = self.bounds[document]
        part = int(np.searchsorted(bounds, row, side="right")) - 1
        last = min(int(bounds[part + 1]), max(int(bounds[part]), row - self.size // 2) + self.size)
        first = max(int(bounds[part]), last - self.size)
        return Window(self.strings[document][first:last], self.topics[document], row - first, activation)


def gather(
    contexts: pd.DataFrame, peaks: pd.DataFrame, about: pd.DataFrame, texts: Texts, decode: Decoder, seed: int
) -> dict[int, Latent]:
    """Latents with contexts. They are named after the highest ones, of distinct documents; names are tried on TRIED random
    ones of the other documents in which they fire, and on as many windows of documents in which they never do.
    """
    promoted = dict(zip(about.latent, about.promoted, strict=True))
    top = _by_latent(contexts[contexts.band == "top"], ("document", "tokens", "peak", "activation"))
    numbers, owner = np.unique(texts.owner, return_inverse=True)
    latents = {}
    for number, fires in _by_latent(peaks, ("document", "row", "activation")).items():
        generator = np.random.default_rng([seed, number])
        document = fires["document"]
        others = np.flatnonzero(~np.isin(document, top[number]["document"]))
        drawn = generator.permutation(others)[:TRIED]
        silent = np.flatnonzero(~np.isin(numbers, document)[owner])
        trial = make_trial(
            [texts.around(*row) for row in zip(*(column[drawn].tolist() for column in fires.values()), strict=True)],
            [texts.pieces[i] for i in generator.permutation(silent)[:TRIED]],
            generator,
        )
        windows = [
            Window(decode(tokens), texts.topics[document], int(peak), float(activation))
            for document, tokens, peak, activation in zip(*top[number].values(), strict=True)
        ]
        latents[number] = Latent(windows, list(promoted[number]), trial)
    return latents


def _by_latent(table: pd.DataFrame, columns: tuple[str, ...]) -> dict[int, dict[str, np.ndarray]]:
    """Latent -> its rows of these columns, in the table's order; latents ascending. (groupby takes 1 ms a group.)"""
    table = table.sort_values("latent", kind="stable")
    latents, first = np.unique(table.latent, return_index=True)
    parts = {name: np.split(table[name].to_numpy(), first[1:]) for name in columns}
    return {int(latent): {name: parts[name][i] for name in columns} for i, latent in enumerate(latents)}
