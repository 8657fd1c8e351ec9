"""The nearest decoder rows of every latent within its layer."""

import numpy as np
import torch
from torch import Tensor

from sae_atlas.metrics.directions import BLOCK, unit


def neighbours(rows: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` other rows with the largest cosine with every row [n, d_in], nearest first: indices and cosines, [n, count].

    Fewer where there are fewer other rows. Takes n^2 d_in products, in blocks.
    """
    rows = unit(rows)
    count = min(count, len(rows) - 1)
    latents, cosines = np.empty((len(rows), count), np.int64), np.empty((len(rows), count), np.float32)
    for first in range(0, len(rows), BLOCK):
        here = rows[first : first + BLOCK] @ rows.T
        here.diagonal(first).fill_(-torch.inf)
        found = here.topk(count, dim=1)
        latents[first : first + BLOCK], cosines[first : first + BLOCK] = found.indices, found.values
    return latents, cosines
