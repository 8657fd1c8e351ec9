"""What the architectures share: initial weights, what a loss returns, and its parts.

All of it in scaled space, x = (activation - mean) * scale with E||x||^2 = 1. Weights by name: `W_enc` and `W_dec` as
rows [d_sae, d_in] (one latent per row of memory), `b_enc` [d_sae], `b_dec` [d_in], and what an architecture adds.
Pre-activations are z = (x - b_dec) W_enc^T + b_enc, the reconstruction is f W_dec + b_dec.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Weights


@dataclass(frozen=True)
class Loss:
    """A differentiable loss and what it is made of, means over the batch."""

    total: Tensor
    reconstruction: Tensor  # E||x - x_hat||^2
    sparsity: Tensor  # the penalty term, its weight included
    latents: Tensor  # f [batch, d_sae]


def initial_weights(d_in: int, d_sae: int, b_dec: Tensor, seed: int, encoder_norm: float = 1.0) -> Weights:
    """Decoder rows of unit norm in random directions, encoder its transpose times `encoder_norm`, `b_dec` [d_in]."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(d_sae, d_in, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    weights = {"W_enc": decoder * encoder_norm, "b_enc": torch.zeros(d_sae), "W_dec": decoder}
    return weights | {"b_dec": b_dec.float().clone()}


def pre_activations(weights: Weights, x: Tensor) -> Tensor:
    """z [batch, d_sae]."""
    return torch.addmm(weights["b_enc"], x - weights["b_dec"], weights["W_enc"].T)


def reconstruct(weights: Weights, latents: Tensor) -> Tensor:
    """x_hat [batch, d_in]."""
    return latents @ weights["W_dec"] + weights["b_dec"]


def squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """E||x - x_hat||^2: sum over dimensions, mean over tokens."""
    return (x - x_hat).square().sum(1).mean()


def keep_largest(z: Tensor, k: int) -> Tensor:
    """ReLU of z [batch, n] with all but the k largest of each row zero."""
    positive = z.relu()
    values, indices = positive.topk(min(k, z.shape[1]), dim=1, sorted=False)
    return torch.zeros_like(z).scatter(1, indices, values)


def aux_latents(d_in: int, wanted: int | None) -> int:
    """Dead latents AuxK uses per token; half of the input dimensions unless the recipe says otherwise."""
    return wanted or max(1, d_in // 2)


def auxk_loss(weights: Weights, x: Tensor, x_hat: Tensor, z: Tensor, dead: Tensor | None, k: int) -> Tensor:
    """How badly the k largest dead latents rebuild the error, relative to the error's own variance.

    ||e - e_hat||^2 / ||e - mean e||^2 over the batch, e = x - x_hat detached, e_hat without b_dec (arXiv 2406.04093,
    A.2, in the scale of OpenAI's code). 0 when no latent is dead. Others divide by the variance of the input, or by
    nothing: the same coefficient is then another strength.
    """
    if dead is None or not dead.any():
        return x.new_zeros(())
    error = (x - x_hat).detach()
    latents = keep_largest(z[:, dead], k)
    missed = (latents @ weights["W_dec"][dead] - error).square().sum()
    return missed / (error - error.mean(0)).square().sum()
