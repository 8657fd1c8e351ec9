"""BatchTopK with AuxK: the k x batch largest pre-activations of the batch (arXiv 2412.06410).

At inference tokens do not see each other: a latent is active above the smoothed smallest active one of training.
"""

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.auxk import add_auxk
from sae_atlas.saes.parts import Loss, aux_latents, auxk_loss, keep_largest, pre_activations, reconstruct, squared_error


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


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    entries = step.largest_of_batch(recipe.k)
    decoded = step.decode(entries, entries.values)
    encoder = decoded.dots * (2 / step.rows)
    grads = step.accumulate(entries, decoded, entries.values, encoder, 2 / step.rows)
    auxiliary = add_auxk(step, grads, -decoded.residuals[:, 0], recipe.auxk)
    return grads, step.measured(entries, None, decoded.squared_error, more=auxiliary)


def inference(weights: Weights, smallest: float) -> tuple[Weights, Tensor]:
    """The weights and the threshold [d_sae], one value for all."""
    return weights, torch.full_like(weights["b_enc"], smallest)
