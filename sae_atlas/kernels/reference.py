"""The step by torch autograd: dense, on any device and dtype, the reference that the sparse backends are tested against."""

from types import ModuleType

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Control, Measured, Weights, decoder_error

EPSILON = 1e-8  # Adam's


def gradients(
    architecture: ModuleType, weights: Weights, x: Tensor, recipe, control: Control
) -> tuple[Weights, Measured]:
    """Gradient of the loss of `architecture` (a module of sae_atlas/saes) on the scaled batch x [batch, d_in]."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
    loss = architecture.loss(leaves, x, recipe, control)
    total = loss.total
    if control.pull is not None:
        total = total + (control.pull(-decoder_error(x, loss.rebuilt.detach(), control)) * loss.rebuilt).sum()
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    by_name = {
        name: torch.zeros_like(leaf) if grad is None else grad
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
    }
    latents = loss.latents.detach()
    active = latents > 0
    smallest = torch.where(active, latents, torch.inf).amin()
    return by_name, Measured(
        loss=loss.total.detach(),
        reconstruction=loss.reconstruction.detach(),
        sparsity=loss.sparsity.detach(),
        l0=active.sum().double() / len(x),
        fired=active.any(0),
        smallest=torch.where(smallest.isinf(), 0, smallest),
    )


def update(weights: Weights, grads: Weights, moments, recipe, step: int, learning_rate: float) -> float:
    """One step of Adam, in place; `step` counts from 1. Returns the norm of the gradient before clipping.

    The part of the decoder's gradient along its rows is removed (it would only change their norm), the whole gradient
    is clipped to `recipe.clip`, and decoder rows return to unit norm. A gradient that is not finite changes nothing.
    moments: (first, second), each by name as the weights.
    """
    decoder, along = weights["W_dec"], grads["W_dec"]
    grads = grads | {"W_dec": along - (along * decoder).sum(1, keepdim=True) * decoder}
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm().item()
    if not norm < float("inf"):
        return norm
    factor = min(1.0, recipe.clip / norm) if norm else 1.0
    first_rate, second_rate = recipe.adam_betas
    for name, weight in weights.items():
        first, second = moments[0][name], moments[1][name]
        grad = grads[name] * factor
        first.mul_(first_rate).add_(grad, alpha=1 - first_rate)
        second.mul_(second_rate).addcmul_(grad, grad, value=1 - second_rate)
        root = (second / (1 - second_rate**step)).sqrt_().add_(EPSILON)
        weight.addcdiv_(first, root, value=-learning_rate / (1 - first_rate**step))
    decoder /= decoder.norm(dim=1, keepdim=True)
    return norm
