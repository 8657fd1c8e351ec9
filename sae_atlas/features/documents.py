"""Latents and raw activations pooled per document in one pass, from which scores, probes and names are made.

Memory is bounded by the (document, latent) pairs that fire, not by documents x d_sae.
"""

import numpy as np
import pyarrow as pa

PEAK_COLUMNS = ("document", "latent", "activation", "mean", "token", "position", "row")


class Pooled:
    """Takes batches of tokens in the order of the text; a document may continue in the next batch."""

    def __init__(self, d_sae: int, d_in: int):
        self.d_sae, self.d_in = d_sae, d_in
        self.parts: list[tuple[np.ndarray, ...]] = []  # key, peak, sum, token, position, row; keys ascending in each
        self.read: list[np.ndarray] = []  # document, token, position of every token read, [3, tokens]
        self.sums: dict[int, np.ndarray] = {}
        self.lengths: dict[int, int] = {}  # tokens read of a document so far

    def add(self, starts, columns, values, x, tokens, position, document, counts) -> None:
        """Active entries of some tokens: starts [tokens + 1], columns and values [entries], CSR. Per token its raw
        activation x [tokens, d_in], its id, its position in its context, its document, and whether it counts. All numpy.

        Masked tokens must not be here; outliers, which do not count, have no entries.
        """
        lengths = np.diff(starts)[counts]
        x, tokens, position, document = (each[counts] for each in (x, tokens, position, document))
        row = self._rows(document)
        names, index = np.unique(document, return_inverse=True)
        raw = np.zeros((len(names), self.d_in))
        np.add.at(raw, index, x)
        for name, total in zip(names.tolist(), raw, strict=True):
            self.sums[name] = self.sums.get(name, 0) + total
        self.read.append(np.stack([document, tokens, position]))
        entry = np.repeat(np.arange(len(document)), lengths)
        key = document[entry].astype(np.int64) * self.d_sae + columns
        values = values.astype(np.float64)
        self.parts.append(_reduce(key, values, values, tokens[entry], position[entry], row[entry]))

    def _rows(self, document: np.ndarray) -> np.ndarray:
        """Index of every token among all that are read of its document, [tokens]."""
        order = np.argsort(document, kind="stable")
        names, first, counts = np.unique(document[order], return_index=True, return_counts=True)
        read = np.array([self.lengths.get(name, 0) for name in names.tolist()], np.int64)
        self.lengths |= dict(zip(names.tolist(), (read + counts).tolist(), strict=True))
        rows = np.empty(len(document), np.int64)
        rows[order] = np.arange(len(document)) + np.repeat(read - first, counts)
        return rows

    def table(self) -> pa.Table:
        """A row per document and latent that fires in it, in that order. activation: its peak there (of equal ones the
        first); mean: over the document's tokens; token, position, row: at the peak. row: its index in the document's `tokens`
        of raw_table; position and token may be those of other rows too, where several contexts hold one document.
        """
        parts = [np.concatenate(each) for each in zip(*self.parts, strict=True)] if self.parts else [np.zeros(0)] * 6
        key, peak, total, token, position, row = _reduce(*parts)
        document, latent = np.divmod(key.astype(np.int64), self.d_sae)
        names, counts = np.unique(np.concatenate(self.read, axis=1)[0], return_counts=True)
        values = {
            "document": document,
            "latent": latent.astype(np.int32),
            "activation": peak.astype(np.float32),
            "mean": (total / counts[np.searchsorted(names, document)]).astype(np.float32),
            "token": token.astype(np.int32),
            "position": position.astype(np.int32),
            "row": row.astype(np.int32),
        }
        return pa.table({name: values[name] for name in PEAK_COLUMNS})

    def raw_table(self) -> pa.Table:
        """A row per document: the tokens read of it and their positions, in the order read, and the mean of their raw
        activations [d_in].
        """
        document, token, position = np.concatenate(self.read, axis=1)
        order = np.argsort(document, kind="stable")
        names, counts = np.unique(document, return_counts=True)
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        means = np.array([self.sums[name] for name in names.tolist()]) / counts[:, None]
        return pa.table(
            {
                "document": names.astype(np.int64),
                "tokens": pa.ListArray.from_arrays(ends, token[order].astype(np.int32)),
                "positions": pa.ListArray.from_arrays(ends, position[order].astype(np.int32)),
                "mean": pa.FixedSizeListArray.from_arrays(means.astype(np.float32).ravel(), self.d_in),
            }
        )


def _reduce(key, peak, total, *at) -> tuple[np.ndarray, ...]:
    """One entry per key: its largest peak, what `at` says of the first entry that reaches it, and the sum of its totals."""
    order = np.lexsort((-peak, key))  # stable: of equal peaks the first one read stays first
    key, peak, total, *at = (each[order] for each in (key, peak, total, *at))
    first = np.flatnonzero(np.diff(key, prepend=-1))
    total = np.add.reduceat(total, first) if len(first) else total
    return key[first], peak[first], total, *(each[first] for each in at)
