"""JumpReLU: a learnt threshold per latent, trained through pseudo-derivatives (arXiv 2407.14435).

f = z where z > threshold (and z > 0), else 0. Loss: ||x - x_hat||^2 + coefficient (L0 / target - 1)^2, L0 of the batch.
With the rectangle K(u) = 1 where |u| < 1/2, u = (z - threshold) / bandwidth: df/dthreshold = -(threshold / bandwidth) K
and dL0/dthreshold = -(1 / bandwidth) K. The threshold itself is a float32 weight: its logarithm freezes under Adam.
"""

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.parts import Loss, pre_activations, reconstruct, squared_error


class _Jump(torch.autograd.Function):
    """(f, step) of (z, threshold), with the pseudo-derivatives above."""

    @staticmethod
    def forward(ctx, z: Tensor, threshold: Tensor, bandwidth: float):
        active = (z > threshold) & (z > 0)
        ctx.save_for_backward(z, threshold, active)
        ctx.bandwidth = bandwidth
        return z * active, active.to(z.dtype)

    @staticmethod
    def backward(ctx, to_latents: Tensor, to_step: Tensor):
        z, threshold, active = ctx.saved_tensors
        near = ((z - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return to_latents * active, -(near * (threshold * to_latents + to_step)).sum(0), None


def extra_weights(recipe, d_sae: int) -> Weights:
    return {"threshold": torch.full((d_sae,), recipe.jumprelu.threshold)}


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled; control.penalty is the coefficient now."""
    z = pre_activations(weights, x, control)
    latents, step = _Jump.apply(z, weights["threshold"], recipe.jumprelu.bandwidth)
    rebuilt = reconstruct(weights, x, latents)
    reconstruction = squared_error(x, rebuilt, control)
    l0 = step.sum(1).mean()
    sparsity = control.penalty * (l0 / recipe.jumprelu.target_l0 - 1).square()
    return Loss(reconstruction + sparsity, reconstruction, sparsity, latents, rebuilt)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the entries that are active or near their threshold (step: cpu.Step, gpu.Step)."""
    bandwidth, target = recipe.jumprelu.bandwidth, recipe.jumprelu.target_l0
    entries = step.above(weights["threshold"] - bandwidth / 2)
    threshold = weights["threshold"].index_select(0, entries.columns)
    active = (entries.values > threshold) & (entries.values > 0)
    latents = entries.values * active
    decoded = step.pulled(entries, step.decode(entries, latents), 2 / step.rows)
    to_latents = decoded.dots * (2 / step.rows)
    grads = step.accumulate(entries, decoded, latents, to_latents * active, 2 / step.rows)
    excess = active.sum().double() / step.rows / target - 1
    to_step = 2 * control.penalty * excess / target / step.rows
    near = (entries.values - threshold).abs() < bandwidth / 2
    grads["threshold"] = -step.sum_by_latent(entries, near * (threshold * to_latents + to_step) / bandwidth)
    return grads, step.measured(entries, active, decoded.squared_error, control.penalty * excess**2)


def dense_gradients(step, weights: Weights, recipe, control: Control):
    """The same where many latents are active (step: DenseStep of sae_atlas/kernels/dense.py)."""
    threshold, bandwidth, target = weights["threshold"], recipe.jumprelu.bandwidth, recipe.jumprelu.target_l0
    grads, sums = step.gradients(torch.zeros_like(threshold), threshold, bandwidth)
    excess = sums.l0(step.rows) / target - 1
    to_step = 2 * control.penalty * excess / target / step.rows
    near, dots = torch.from_numpy(sums.near).to(threshold.dtype), torch.from_numpy(sums.near_dots) * (2 / step.rows)
    grads["threshold"] = -(threshold * dots + to_step * near) / bandwidth
    return grads, step.measured(sums, control.penalty * excess**2)


def inference(weights: Weights, smallest: float) -> tuple[Weights, Tensor]:
    """The weights and the threshold [d_sae]."""
    return weights, weights["threshold"]


def extra_of_inference(weights: Weights, threshold: Tensor) -> Weights:
    """Of `extra_weights` those with which `inference` gives this threshold."""
    return {"threshold": threshold}
