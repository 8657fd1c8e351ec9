"""ReLU with an L1 penalty weighted by decoder norms.

Anthropic, "Update on how we train SAEs" (Circuits Updates, April 2024):
||x - x_hat||^2 + lambda sum_j f_j ||W_dec_j||, f = ReLU(z). Decoder rows are kept at unit norm here.
"""

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.parts import Loss, pre_activations, reconstruct, squared_error


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled."""
    latents = pre_activations(weights, x, control).relu()
    rebuilt = reconstruct(weights, x, latents)
    reconstruction = squared_error(x, rebuilt, control)
    sparsity = control.penalty * (latents @ weights["W_dec"].norm(dim=1)).mean()
    return Loss(reconstruction + sparsity, reconstruction, sparsity, latents, rebuilt)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    entries = step.above(0.0)
    decoded = step.pulled(entries, step.decode(entries, entries.values), 2 / step.rows)
    norms = weights["W_dec"].norm(dim=1)
    weight = norms * (control.penalty / step.rows)
    encoder = decoded.dots * (2 / step.rows) + weight.index_select(0, entries.columns)
    grads = step.accumulate(entries, decoded, entries.values, encoder, 2 / step.rows)
    sums = step.sum_by_latent(entries, entries.values)
    sparsity = _penalise(grads, weights["W_dec"], norms, sums * (control.penalty / step.rows))
    return grads, step.measured(entries, None, decoded.squared_error, sparsity)


def dense_gradients(step, weights: Weights, recipe, control: Control):
    """The same where many latents are active (step: DenseStep of sae_atlas/kernels/dense.py)."""
    norms = weights["W_dec"].norm(dim=1)
    grads, sums = step.gradients(norms * (control.penalty / step.rows))
    latents = torch.from_numpy(sums.latents)
    sparsity = _penalise(grads, weights["W_dec"], norms, latents * (control.penalty / step.rows))
    return grads, step.measured(sums, sparsity)


def _penalise(grads: Weights, decoder: Tensor, norms: Tensor, sums: Tensor) -> Tensor:
    """Add what moves the decoder's norms; returns the penalty. sums [d_sae]: of the latents, times lambda / rows."""
    grads["W_dec"].addcmul_((sums / norms)[:, None], decoder)
    return sums.double() @ norms.double()
