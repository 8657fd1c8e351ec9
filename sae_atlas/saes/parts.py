"""What the architectures share: initial weights, what a loss returns, and its parts.

All of it in scaled space, x = (activation - mean) * scale with E||x||^2 = 1. Weights by name: `W_enc` and `W_dec` as
rows [d_sae, d_in] (one latent per row of memory), `b_enc` [d_sae], `b_dec` [d_in], and what an architecture adds.
Pre-activations are z = (x - b_dec) W_enc^T + b_enc, the reconstruction is f W_dec + b_dec.

A transcoder predicts y [d_out], scaled likewise: z = x W_enc^T + b_enc, y_hat = f W_dec + b_dec, `W_dec` [d_sae, d_out],
`b_dec` [d_out]; and + x W_skip^T where the recipe says `skip`, `W_skip` [d_out, d_in] (arXiv 2501.18823).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights, decoder_error, encoder_input


@dataclass(frozen=True)
class Loss:
    """A differentiable loss and what it is made of, means over the batch."""

    total: Tensor
    reconstruction: Tensor  # E||x - x_hat||^2, of a transcoder E||y - y_hat||^2
    sparsity: Tensor  # the penalty term, its weight included
    latents: Tensor  # f [batch, d_sae]
    rebuilt: Tensor  # x_hat [batch, d_in], of a transcoder y_hat [batch, d_out]


def initial_weights(
    d_in: int, d_sae: int, b_dec: Tensor, seed: int, encoder_norm: float = 1.0, transcoder: bool = False
) -> Weights:
    """Decoder rows of unit norm in random directions, encoder rows the same times `encoder_norm`, `b_dec` [d_out].

    An SAE writes what it reads. A transcoder's encoder rows have directions of their own.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = _unit_rows(d_sae, d_in, generator)
    decoder = _unit_rows(d_sae, len(b_dec), generator) if transcoder else encoder
    weights = {"W_enc": encoder * encoder_norm, "b_enc": torch.zeros(d_sae), "W_dec": decoder}
    return weights | {"b_dec": b_dec.float().clone()}


def _unit_rows(rows: int, d: int, generator: torch.Generator) -> Tensor:
    directions = torch.randn(rows, d, generator=generator)
    return directions.div_(directions.norm(dim=1, keepdim=True))


def pre_activations(weights: Weights, x: Tensor, control: Control) -> Tensor:
    """z [batch, d_sae]."""
    return torch.addmm(weights["b_enc"], encoder_input(weights, x, control), weights["W_enc"].T)


def reconstruct(weights: Weights, x: Tensor, latents: Tensor) -> Tensor:
    """x_hat [batch, d_in], of a transcoder y_hat [batch, d_out]."""
    decoded = latents @ weights["W_dec"] + weights["b_dec"]
    return decoded + x @ weights["W_skip"].T if "W_skip" in weights else decoded


def squared_error(x: Tensor, x_hat: Tensor, control: Control) -> Tensor:
    """E||x - x_hat||^2, of a transcoder E||y - y_hat||^2: sum over dimensions, mean over tokens."""
    return decoder_error(x, x_hat, control).square().sum(1).mean()


def keep_largest(z: Tensor, k: int) -> Tensor:
    """ReLU of z [batch, n] with all but the k largest of each row zero."""
    positive = z.relu()
    values, indices = positive.topk(min(k, z.shape[1]), dim=1, sorted=False)
    return torch.zeros_like(z).scatter(1, indices, values)


def aux_latents(d_in: int, wanted: int | None) -> int:
    """Dead latents AuxK uses per token; half of the input dimensions unless the recipe says otherwise."""
    return wanted or max(1, d_in // 2)


def auxk_loss(weights: Weights, error: Tensor, z: Tensor, dead: Tensor | None, k: int) -> Tensor:
    """How badly the k largest dead latents rebuild the error, relative to the error's own variance.

    ||e - e_hat||^2 / ||e - mean e||^2 over the batch, e = decoder_error detached, e_hat without b_dec (arXiv 2406.04093,
    A.2, in the scale of OpenAI's code). 0 when no latent is dead. Others divide by the variance of the input, or by
    nothing: the same coefficient is then another strength.
    """
    if dead is None or not dead.any():
        return error.new_zeros(())
    error = error.detach()
    latents = keep_largest(z[:, dead], k)
    missed = (latents @ weights["W_dec"][dead] - error).square().sum()
    return missed / variance_of(error)


def variance_of(error: Tensor) -> Tensor:
    """||e - mean e||^2 over the batch; infinite where it is 0, as of a batch of one token, for nothing can be told of it."""
    variance = (error - error.mean(0)).square().sum()
    return torch.where(variance > 0, variance, torch.inf)
