"""BatchTopK with AuxK: the k x batch largest pre-activations of the batch (arXiv 2412.06410).

At inference tokens do not see each other: a latent is active above the smoothed smallest active one of training.
"""

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.largest import gradients_of_largest, loss_of_largest
from sae_atlas.saes.parts import Loss, keep_largest, pre_activations


def keep_largest_of_batch(z: Tensor, k: int) -> Tensor:
    """ReLU of z [batch, d_sae] with all but the k * batch largest of the whole batch zero."""
    return keep_largest(z.reshape(1, -1), k * len(z)).reshape(z.shape)


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled. ||x - x_hat||^2 + auxk.coefficient * auxk_loss."""
    z = pre_activations(weights, x, control)
    return loss_of_largest(weights, x, z, keep_largest_of_batch(z, recipe.k), [z.shape[1]], recipe, control)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    return gradients_of_largest(step, step.largest_of_batch(recipe.k), [step.d_sae], recipe)


def inference(weights: Weights, smallest: float) -> tuple[Weights, Tensor]:
    """The weights and the threshold [d_sae], one value for all."""
    return weights, torch.full_like(weights["b_enc"], smallest)
