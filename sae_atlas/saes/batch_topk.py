"""BatchTopK with AuxK: the k x batch largest pre-activations of the batch (arXiv 2412.06410).

At inference tokens do not see each other: a latent is active above the smoothed smallest active one of training.
"""

import numpy as np
import torch
from torch import Tensor

from sae_atlas.kernels.loops import collect_above
from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.auxk import add_auxk
from sae_atlas.saes.parts import Loss, aux_latents, auxk_loss, keep_largest, pre_activations, reconstruct, squared_error

GUESS = 0.8  # of the smallest active latent so far: above it lie a few more than k x batch candidates


def keep_largest_of_batch(z: Tensor, k: int) -> Tensor:
    """ReLU of z [batch, d_sae] with all but the k * batch largest of the whole batch zero."""
    return keep_largest(z.reshape(1, -1), k * len(z)).reshape(z.shape)


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled. ||x - x_hat||^2 + auxk.coefficient * auxk_loss."""
    z = pre_activations(weights, x)
    latents = keep_largest_of_batch(z, recipe.k)
    x_hat = reconstruct(weights, latents)
    reconstruction = squared_error(x, x_hat)
    dead_latents = aux_latents(x.shape[1], recipe.auxk.latents)
    auxiliary = recipe.auxk.coefficient * auxk_loss(weights, x, x_hat, z, control.dead, dead_latents)
    return Loss(reconstruction + auxiliary, reconstruction, x.new_zeros(()), latents)


def largest_of_batch(step, k: int, smallest: float):
    """Active entries: candidates above a guess, lowered until there are enough; of them the exact k * batch."""
    for guess in (GUESS * smallest, GUESS / 4 * smallest, 0.0):
        entries = step.encode(lambda z, *out, above=guess: collect_above(z, z.dtype.type(above), *out))
        surplus = len(entries.values) - k * step.rows
        if surplus >= 0:
            break
    if surplus <= 0:
        return entries
    edge = np.partition(entries.values, surplus)[surplus]
    kept = entries.values > edge
    equal = np.flatnonzero(entries.values == edge)  # of equal ones the first
    kept[equal[: k * step.rows - kept.sum()]] = True
    return entries.keep(kept)


def sparse_gradients(step, weights: Weights, x: Tensor, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: sae_atlas/kernels/cpu.py)."""
    entries = largest_of_batch(step, recipe.k, control.smallest)
    decoded = step.decode(entries, entries.values)
    encoder = decoded.dots * entries.values.dtype.type(2 / step.rows)
    grads = step.accumulate(entries, decoded, entries.values, encoder, 2 / step.rows)
    error = -torch.from_numpy(decoded.residuals[:, 0])
    dead_latents = aux_latents(step.d_in, recipe.auxk.latents)
    auxiliary = add_auxk(grads, weights, step.centred, error, control.dead, dead_latents, recipe.auxk.coefficient)
    return grads, step.measured(entries, None, decoded.squared_error, more=auxiliary)


def inference(weights: Weights, smallest: float) -> tuple[Weights, Tensor]:
    """The weights and the threshold [d_sae], one value for all."""
    return weights, torch.full_like(weights["b_enc"], smallest)
