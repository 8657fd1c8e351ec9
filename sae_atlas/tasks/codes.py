"""A code: units with an activation per item and a direction each. Latents of an SAE, or what they are held against.

Ablating units in every token of a text and taking the mean over its tokens is ablating them in the mean, for decoders are
linear: x - sum_j f_j W_dec_j. So the mean over an item's tokens is all that probes and ablations read.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_atlas.saes.sae import Sae

SEED = 0
SAMPLE = 2048  # rows from which the threshold of random directions is taken


@dataclass(frozen=True)
class Code:
    """activations [items, units]: means over the tokens of an item, which may be one token; directions [units, d_in].

    either_sign: of units whose sign is arbitrary, as a component's, and not of latents, which are active or silent.
    """

    activations: np.ndarray
    directions: np.ndarray
    either_sign: bool = False

    def of(self, items: np.ndarray) -> "Code":
        """The same units on some of the items."""
        return Code(self.activations[items], self.directions, self.either_sign)


def pca_code(x: np.ndarray) -> Code:
    """Principal components of x [items, d_in] about its mean, as many as there are."""
    centred = x - x.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2]
    return Code(centred @ directions.T, directions, either_sign=True)


def random_sae(x: Tensor, d_sae: int, l0: float) -> Sae:
    """An SAE whose decoder rows are random unit vectors, and its encoder their transpose.

    x: [rows, d_in], centred at their mean before they are read; one threshold for all latents lets `l0` of them be active
    per row on average, as far as so many are above 0: about half. What such an SAE reaches, no training was needed for.
    """
    directions = torch.randn(d_sae, x.shape[1], generator=torch.Generator().manual_seed(SEED))
    directions /= directions.norm(dim=1, keepdim=True)
    mean = x.mean(dim=0)
    z = (x[:SAMPLE] - mean) @ directions.T
    active = max(1, round(l0 * len(z)))
    threshold = z.flatten().kthvalue(z.numel() - active).values if active < z.numel() else torch.tensor(0.0)
    state = {
        "b_pre": mean,
        "encoder.weight": directions,
        "encoder.bias": torch.zeros(d_sae),
        "decoder.weight": directions.T.contiguous(),
        "decoder.bias": torch.zeros(x.shape[1]),
        "threshold": threshold.clamp(min=0).expand(d_sae).clone(),
    }
    return Sae(state, {"recipe": {"architecture": "batch_topk"}})
