"""Tokens and positions of a latent's peaks: their entropy, the most frequent token, and a bias of the position."""

import numpy as np
import pandas as pd


def token_entropy(peaks: pd.DataFrame) -> pd.Series:
    """Entropy in bits of the token at the peak, per latent: 0 if it is always the same one.

    peaks: rows with latent, token, activation, one per document; p(token) is its share of the latent's activation.
    """
    shares = _shares(peaks)
    return (-(shares * np.log2(shares)).groupby("latent").sum()).abs().rename("token_entropy")  # no -0


def top_tokens(peaks: pd.DataFrame) -> pd.Series:
    """The token with the largest share of the activation at the peaks, per latent; of equal ones the smallest id."""
    shares = _shares(peaks).reset_index().sort_values(["latent", "share", "token"], ascending=[True, False, True])
    return shares.drop_duplicates("latent").set_index("latent")["token"]


def position_bias(peaks: pd.DataFrame, positions: np.ndarray) -> pd.Series:
    """P(the peak is later in its context than any token read) - P(it is earlier), per latent: -1 to 1.

    0 for peaks spread as the text is, -1 for a latent that peaks at the first position only (rank-biserial correlation).
    positions: of every unmasked token that was read. Peaks count equally, one per document.
    """
    counts = np.bincount(positions)
    before = np.concatenate([[0], np.cumsum(counts)])[:-1]
    later = (2 * before + counts) / counts.sum() - 1  # P(token earlier) - P(token later) for each position
    return pd.Series(later[peaks.position], peaks.latent).groupby(level=0).mean().rename("position_bias")


def _shares(peaks: pd.DataFrame) -> pd.Series:
    sums = peaks.assign(share=peaks.activation.astype(float)).groupby(["latent", "token"]).share.sum()
    return sums / sums.groupby("latent").transform("sum")
