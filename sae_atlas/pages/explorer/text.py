"""The text of the explorer: every context that latents point into, once."""

import numpy as np
import pyarrow as pa


class Text:
    """Rows of the corpus that are used, numbered in the order of the corpus."""

    def __init__(self, tokens: np.ndarray, rows: np.ndarray):
        """tokens [contexts, context]: ids of the corpus; rows: those that are used, each once, rising."""
        self.rows = rows
        self.tokens = np.ascontiguousarray(tokens[rows], np.min_scalar_type(int(tokens[rows].max(initial=0))))

    def number(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of these rows of the corpus."""
        return np.searchsorted(self.rows, rows)

    def peak_positions(self, contexts: pa.Table) -> np.ndarray:
        """Positions of the peaks of contexts (features.top_contexts) in `bytes`, in tokens."""
        row, start, peak = (contexts[name].to_numpy().astype(np.int64) for name in ("context", "start", "peak"))
        return self.number(row) * self.tokens.shape[1] + start + peak

    def bytes(self) -> bytes:
        """Ids, little-endian, row after row."""
        return self.tokens.astype(self.tokens.dtype.newbyteorder("<")).tobytes()

    def ids(self) -> np.ndarray:
        """Ids that occur, rising."""
        return np.unique(self.tokens)
