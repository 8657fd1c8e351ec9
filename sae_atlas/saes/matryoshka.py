"""Matryoshka BatchTopK with AuxK: nested prefixes of the latents each rebuild the input (arXiv 2503.17547).

The loss is the mean over prefixes of ||x - x_hat_prefix||^2; latents are chosen for the whole batch as in BatchTopK.
"""

import numpy as np
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.auxk import add_auxk
from sae_atlas.saes.batch_topk import inference, keep_largest_of_batch
from sae_atlas.saes.parts import Loss, aux_latents, auxk_loss, pre_activations, squared_error

__all__ = ["ends", "inference", "loss", "sparse_gradients"]


def ends(groups: tuple[float, ...], d_sae: int) -> list[int]:
    """Where the prefixes end, ascending; groups: their growth, as fractions of the latents. The last is d_sae."""
    return [*(round(float(end) * d_sae) for end in np.cumsum(groups)[:-1]), d_sae]


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled."""
    z = pre_activations(weights, x)
    latents = keep_largest_of_batch(z, recipe.k)
    prefixes = ends(recipe.groups, z.shape[1])
    rebuilt = [latents[:, :end] @ weights["W_dec"][:end] + weights["b_dec"] for end in prefixes]
    errors = [squared_error(x, x_hat) for x_hat in rebuilt]
    dead_latents = aux_latents(x.shape[1], recipe.auxk.latents)
    auxiliary = recipe.auxk.coefficient * auxk_loss(weights, x, rebuilt[-1], z, control.dead, dead_latents)
    return Loss(sum(errors) / len(errors) + auxiliary, errors[-1], x.new_zeros(()), latents)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    entries = step.largest_of_batch(recipe.k)
    prefixes = ends(recipe.groups, step.d_sae)
    decoded = step.decode(entries, entries.values, prefixes)
    scale = 2 / step.rows / len(prefixes)
    encoder = decoded.dots * scale
    grads = step.accumulate(entries, decoded, entries.values, encoder, scale)
    auxiliary = add_auxk(step, grads, -decoded.residuals[:, -1], recipe.auxk)
    prefix_error = decoded.squared_error_of_prefixes / len(prefixes) - decoded.squared_error
    return grads, step.measured(entries, None, decoded.squared_error, more=prefix_error + auxiliary)
