"""Feature absorption: a letter's latents stay silent on a word, and other latents write the letter's direction in their place.

SAEBench 0.6.0, `absorption/feature_absorption_calculator` (Chanin et al. 2024, arXiv 2409.14507; the fraction: Karvonen et al.
2025, arXiv 2503.09532, appendix).
"""

from typing import NamedTuple

import numpy as np

SILENT = 1e-8  # activation below which a latent does not fire
FULL_COSINE, PART_COSINE = 0.025, 0.1  # least cosine with the probe of what absorbs fully, or in part
SHARE = 0.4  # of the word's projection on the probe that what absorbs must write at least
ABSORBING = 3  # latents that may absorb together


class Absorbed(NamedTuple):
    """Of every word: how much of the letter other latents have taken over, from 0 to 1; and whether one took it all."""

    fraction: np.ndarray
    full: np.ndarray


def absorbed(latents: np.ndarray, x: np.ndarray, W_dec: np.ndarray, probe: np.ndarray, main: np.ndarray) -> Absorbed:
    """latents [words, d_sae] and raw activations x [words, d_in] of words with the letter, whose probe [d_in] says so; main:
    the latents that the letter is split over (first_letter.split).

    A latent writes activation x decoder row . direction of the probe. SAEBench leaves the row's norm out, which is 1 of SAEs
    that it knows, and not of all that others publish. fraction: 0 where the main latents write the whole projection, or
    others too little of it.
    """
    direction = probe / np.linalg.norm(probe)
    along = W_dec @ direction
    cosine = along / np.maximum(np.linalg.norm(W_dec, axis=1), SILENT)
    written, total = latents * along, x @ direction
    by_main = written[:, main].sum(axis=1)
    others = np.where((cosine >= PART_COSINE) & (written > 0), written, 0)
    others[:, main] = 0
    count = min(ABSORBING, others.shape[1])
    by_others = np.partition(others, -count, axis=1)[:, -count:].sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        enough = by_others / total >= SHARE
        taken = np.minimum(by_others, total - by_main)
        part = np.clip(taken / (taken + by_main), 0, 1)
    fraction = np.where((by_main >= total) | ~enough, 0, np.where(by_main <= 0, 1, part))
    largest = written.argmax(axis=1)
    silent = (latents[:, main] < SILENT).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = written.max(axis=1) / total
    full = silent & (cosine[largest] >= FULL_COSINE) & (total >= 0) & (share >= SHARE)
    return Absorbed(fraction, full)
