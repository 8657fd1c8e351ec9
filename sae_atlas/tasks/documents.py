"""Documents that tasks read: their tokens' activations, pooled, and two labels of each.

The first label is the topic that the corpus gives. The second is made here, for the corpus has one label a document: whether
what was read of it holds a digit. Of the introductions of the default corpus 43% do, in every topic but mathematics enough do
and enough do not, and it is of the tokens, so that a mean over these can hold it, which it could not of the text's length.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sae_atlas.activations.outliers import median_norm
from sae_atlas.features.decoder import Decoder
from sae_atlas.features.text import Text
from sae_atlas.saes.sae import Sae

LEAST_TOKENS = 8  # of a document that is read
LEAST_DOCUMENTS = 12  # of a topic
TOKENS_AT_ONCE = 1024  # encoded at once


@dataclass(frozen=True)
class Documents:
    """Documents of a text with enough tokens and a topic that has enough documents.

    Tokens whose norm is above `outlier_norm` medians do not count, as they do not in training.
    """

    text: Text
    outlier_norm: float

    @cached_property
    def counted(self) -> np.ndarray:
        """Index of its document among those read for every unmasked token of the text, [tokens]; -1 where it is not read."""
        document = self.text.documents[self.text.mask]
        inside = self.text.norms <= self.outlier_norm * median_norm(self.text.norms)
        numbers, lengths = np.unique(document[inside], return_counts=True)
        numbers = numbers[lengths >= LEAST_TOKENS]
        topics = self.text.topics[numbers]
        labelled = np.array([topic is not None for topic in topics], bool)
        names, sizes = np.unique(topics[labelled].astype(str), return_counts=True)
        read = numbers[np.isin(topics.astype(str), names[sizes >= LEAST_DOCUMENTS]) & labelled]
        index = np.full(len(self.text.topics), -1)
        index[read] = np.arange(len(read))
        return np.where(inside, index[document], -1)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens read of every document, [documents]."""
        return np.bincount(self.counted[self.counted >= 0])

    @cached_property
    def topics(self) -> np.ndarray:
        """[documents] of str."""
        numbers = np.zeros(len(self.lengths), np.int64)
        known = self.counted >= 0
        numbers[self.counted[known]] = self.text.documents[self.text.mask][known]
        return self.text.topics[numbers].astype(str)

    def has_digit(self, decoder: Decoder) -> np.ndarray:
        """Whether a token that is read of it holds a digit, [documents] bool."""
        ids, known = self.text.tokens[self.text.mask], self.counted >= 0
        different, index = np.unique(ids[known], return_inverse=True)
        digit = np.array([any(map(str.isdigit, decoder.one(number))) for number in different.tolist()])
        return np.bincount(self.counted[known], digit[index], len(self.lengths)) > 0

    def raw(self) -> np.ndarray:
        """Mean activation of the tokens of every document, [documents, d_in]."""
        return self._pooled(lambda x: x)

    def latents(self, sae: Sae) -> np.ndarray:
        """The same of the latents, [documents, d_sae]."""
        return self._pooled(lambda x: sae.encode(x.to(sae.b_dec.device)).cpu())

    def _pooled(self, encode) -> np.ndarray:
        total, done = None, 0
        with torch.inference_mode():
            for _, x in self.text.batches():
                for part in x.split(TOKENS_AT_ONCE):
                    index = torch.from_numpy(self.counted[done : done + len(part)])
                    done += len(part)
                    values = encode(part[index >= 0])
                    total = torch.zeros(len(self.lengths), values.shape[1]) if total is None else total
                    total.index_add_(0, index[index >= 0], values)
        return (total / torch.from_numpy(self.lengths)[:, None].to(total)).numpy()

    def sample(self, rows: int) -> Tensor:
        """Activations of the first tokens that are read, [up to rows, d_in]."""
        parts, done, taken = [], 0, 0
        for _, x in self.text.batches():
            parts.append(x[torch.from_numpy(self.counted[done : done + len(x)] >= 0)])
            done, taken = done + len(x), taken + len(parts[-1])
            if taken >= rows:
                break
        return torch.cat(parts)[:rows]
