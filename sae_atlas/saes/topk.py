"""TopK with AuxK: the k largest pre-activations of a token, no penalty (arXiv 2406.04093)."""

from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.auxk import add_auxk
from sae_atlas.saes.parts import Loss, aux_latents, auxk_loss, keep_largest, pre_activations, reconstruct, squared_error


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled. ||x - x_hat||^2 + auxk.coefficient * auxk_loss."""
    z = pre_activations(weights, x)
    latents = keep_largest(z, recipe.k)
    x_hat = reconstruct(weights, latents)
    reconstruction = squared_error(x, x_hat)
    dead_latents = aux_latents(x.shape[1], recipe.auxk.latents)
    auxiliary = recipe.auxk.coefficient * auxk_loss(weights, x, x_hat, z, control.dead, dead_latents)
    return Loss(reconstruction + auxiliary, reconstruction, x.new_zeros(()), latents)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    entries = step.largest(recipe.k)
    decoded = step.decode(entries, entries.values)
    encoder = decoded.dots * (2 / step.rows)
    grads = step.accumulate(entries, decoded, entries.values, encoder, 2 / step.rows)
    auxiliary = add_auxk(step, grads, -decoded.residuals[:, 0], recipe.auxk)
    return grads, step.measured(entries, None, decoded.squared_error, more=auxiliary)
