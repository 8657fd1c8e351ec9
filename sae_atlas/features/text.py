"""The text that contexts are taken from, with the activations of one layer on it: held-out, or saved by a forward pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import Tensor

from sae_atlas.corpus import Corpus, open_corpus
from sae_atlas.io.arrays import Rows
from sae_atlas.io.errors import AtlasError
from sae_atlas.metrics.held_out import open_held_out

ROWS_PER_READ = 4096  # as many as a chunk of saved activations holds


@dataclass(frozen=True)
class Text:
    """Contexts in the corpus's order; ids, mask and documents are [contexts, context]."""

    first: int  # row of the corpus that the first context is
    tokens: np.ndarray
    mask: np.ndarray
    documents: np.ndarray  # numbers, as the corpus counts them
    topics: np.ndarray  # [documents] of str or None
    activations: Rows  # [contexts, context, d_in], or [unmasked tokens, d_in]

    @property
    def context(self) -> int:
        return self.tokens.shape[1]

    def batches(self) -> Iterator[tuple[range, Tensor]]:
        """(contexts, float32 activations [rows, d_in] of their unmasked positions in order), a few thousand rows at a time."""
        ends = np.cumsum(np.concatenate([[0], self.mask.sum(axis=1)]))
        size = max(1, ROWS_PER_READ // self.context)
        for first in range(0, len(self.tokens), size):
            last = min(first + size, len(self.tokens))
            if len(self.activations.shape) == 3:
                x = self.activations[first:last][self.mask[first:last]]
            else:
                x = self.activations[ends[first] : ends[last]]
            yield range(first, last), torch.from_numpy(x.astype(np.float32))

    @cached_property
    def norms(self) -> np.ndarray:
        """Norm of the activation of every unmasked token, [tokens]; read once, however many SAEs read the text."""
        return np.concatenate([x.norm(dim=1).numpy() for _, x in self.batches()])


def read_text(corpus: str | Path, activations: str | Path, layer: int, split: str) -> Text:
    """The contexts of a `split` with the activations of a layer.

    activations: for `train` what activations.save wrote, for `held_out` the layer's folder of metrics.held_out.
    """
    return (held_out_text if split == "held_out" else train_text)(corpus, activations, layer)


def held_out_text(corpus: str | Path, held_out: str | Path, layer: int) -> Text:
    """The held-out contexts that evaluation reads; held_out: the layer's folder."""
    source = open_held_out(Path(held_out).parent)
    activations = source.rows(f"layer{layer:02d}/site")
    return _text(open_corpus(corpus), range(activations.shape[0]), activations)


def train_text(corpus: str | Path, activations: str | Path, layer: int) -> Text:
    """The train contexts that `activations` (activations/save.py) were made of."""
    try:
        group = zarr.open_group(activations, mode="r")
        name = f"layer{layer:02d}"
        rows = Rows(Path(activations) / name, group[name], "activations")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise AtlasError(f"{activations}: no readable activations; delete them and rerun") from error
    source = open_corpus(corpus)
    return _text(source, source.window(*group.attrs["window"]), rows)


def _text(corpus: Corpus, rows: range, activations: Rows) -> Text:
    window = slice(rows.start, rows.stop)
    tokens = corpus.tokens[window].astype(np.int32)
    return Text(rows.start, tokens, corpus.mask[window], corpus.documents(rows), corpus.topics(), activations)
