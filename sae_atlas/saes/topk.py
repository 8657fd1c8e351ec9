"""TopK with AuxK: the k largest pre-activations of a token, no penalty (arXiv 2406.04093)."""

from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.largest import gradients_of_largest, loss_of_largest
from sae_atlas.saes.parts import Loss, keep_largest, pre_activations


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled. ||x - x_hat||^2 + auxk.coefficient * auxk_loss."""
    z = pre_activations(weights, x, control)
    return loss_of_largest(weights, x, z, keep_largest(z, recipe.k), [z.shape[1]], recipe, control)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    return gradients_of_largest(step, step.largest(recipe.k), [step.d_sae], recipe)
