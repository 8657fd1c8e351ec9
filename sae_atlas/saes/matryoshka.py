"""Matryoshka BatchTopK with AuxK: nested prefixes of the latents each rebuild the input (arXiv 2503.17547).

The loss is the mean over prefixes of ||x - x_hat_prefix||^2; latents are chosen for the whole batch as in BatchTopK.
"""

import numpy as np
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.batch_topk import inference, keep_largest_of_batch
from sae_atlas.saes.largest import gradients_of_largest, loss_of_largest
from sae_atlas.saes.parts import Loss, pre_activations

__all__ = ["ends", "inference", "loss", "sparse_gradients"]


def ends(groups: tuple[float, ...], d_sae: int) -> list[int]:
    """Where the prefixes end, ascending; groups: their growth, as fractions of the latents. The last is d_sae."""
    return [*(round(float(end) * d_sae) for end in np.cumsum(groups)[:-1]), d_sae]


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled."""
    z = pre_activations(weights, x, control)
    latents, prefixes = keep_largest_of_batch(z, recipe.k), ends(recipe.groups, z.shape[1])
    return loss_of_largest(weights, x, z, latents, prefixes, recipe, control)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    return gradients_of_largest(step, step.largest_of_batch(recipe.k), ends(recipe.groups, step.d_sae), recipe)
