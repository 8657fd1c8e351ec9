"""Gradient of AuxK (parts.auxk_loss) in closed form, dense over the dead latents only."""

import torch
from torch import Tensor

from sae_atlas.saes.parts import Weights, keep_largest

ROWS = 1024  # at a time


def add_auxk(
    grads: Weights, weights: Weights, centred: Tensor, error: Tensor, dead: Tensor | None, k: int, weight: float
):
    """Add the gradient of weight * auxk_loss to `grads`; returns that term.

    centred = x - b_dec and error = x - x_hat, [batch, d_in]; dead [d_sae] bool. The error is a constant here.
    """
    if not weight or dead is None or not dead.any():
        return 0.0
    places = dead.nonzero()[:, 0]
    encoder, decoder, bias = weights["W_enc"][places], weights["W_dec"][places], weights["b_enc"][places]
    to_encoder, to_decoder, to_bias = torch.zeros_like(encoder), torch.zeros_like(decoder), torch.zeros_like(bias)
    variance = (error - error.mean(0)).square().sum()
    total = error.new_zeros(())
    for first in range(0, len(error), ROWS):
        x, e = centred[first : first + ROWS], error[first : first + ROWS]
        latents = keep_largest(torch.addmm(bias, x, encoder.T), k)
        missed = torch.addmm(e, latents, decoder, beta=-1)
        total += missed.square().sum()
        to_decoder.addmm_(latents.T, missed)
        to_z = (missed @ decoder.T).mul_(latents > 0)
        to_encoder.addmm_(to_z.T, x)
        to_bias += to_z.sum(0)
    factor = 2 * weight / variance
    grads["W_enc"][places] += factor * to_encoder
    grads["W_dec"][places] += factor * to_decoder
    grads["b_enc"][places] += factor * to_bias
    grads["b_dec"] -= factor * (to_bias @ encoder)
    return float(weight * total / variance)
