"""ReLU with an L1 penalty weighted by decoder norms.

Anthropic, "Update on how we train SAEs" (Circuits Updates, April 2024):
||x - x_hat||^2 + lambda sum_j f_j ||W_dec_j||, f = ReLU(z). Decoder rows are kept at unit norm here. Annealed
(arXiv 2408.00113), the penalty is lambda sum_j (f_j ||W_dec_j||)^p with p = Control.power.
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
    norms = weights["W_dec"].norm(dim=1)
    if control.power == 1:
        sparsity = control.penalty * (latents @ norms).mean()
    else:
        active = latents > 0
        sizes = torch.where(active, latents * norms, 1)  # at 0 the slope of a power is infinite
        sparsity = control.penalty * (sizes**control.power * active).sum(1).mean()
    return Loss(reconstruction + sparsity, reconstruction, sparsity, latents, rebuilt)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    entries = step.above(0.0)
    decoded = step.pulled(entries, step.decode(entries, entries.values), 2 / step.rows)
    norms = weights["W_dec"].norm(dim=1)
    weight = norms * (control.penalty / step.rows)
    slopes = _slopes(entries, norms, control.power)
    encoder = decoded.dots * (2 / step.rows) + weight.index_select(0, entries.columns) * slopes
    grads = step.accumulate(entries, decoded, entries.values, encoder, 2 / step.rows)
    sums = step.sum_by_latent(entries, entries.values * slopes)
    sparsity = _penalise(grads, weights["W_dec"], norms, sums * (control.penalty / step.rows)) / control.power
    return grads, step.measured(entries, None, decoded.squared_error, sparsity)


def _slopes(entries, norms: Tensor, power: float) -> Tensor | float:
    """p s^(p - 1) of every entry's s = f ||W_dec||, so that s times it is p s^p; 0 where a GPU leaves room unused."""
    if power == 1:
        return 1.0
    sizes = entries.values * norms.index_select(0, entries.columns)
    return torch.where(sizes > 0, power * sizes ** (power - 1), 0)


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
