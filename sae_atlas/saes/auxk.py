"""Gradient of AuxK (parts.auxk_loss) in closed form, dense over the dead latents only."""

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Weights
from sae_atlas.kernels.threads import MICRO_BATCH, parts_of, run
from sae_atlas.saes.parts import keep_largest

LATENTS = 512  # in one product of the backward pass


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
    missed = torch.empty_like(error)
    latents, to_z = (error.new_empty(len(error), len(places)) for _ in range(2))

    def forward(part: tuple[int, int]) -> Tensor:
        rows = slice(*part)
        latents[rows] = keep_largest(torch.addmm(bias, centred[rows], encoder.T), k)
        torch.addmm(error[rows], latents[rows], decoder, beta=-1, out=missed[rows])
        torch.mm(missed[rows], decoder.T, out=to_z[rows]).mul_(latents[rows] > 0)
        return missed[rows].square().sum()

    total = sum(run(forward, parts_of(len(error), MICRO_BATCH)))
    variance = (error - error.mean(0)).square().sum()
    factor = 2 * weight / variance

    def backward(part: tuple[int, int]) -> None:
        columns = slice(*part)
        chosen = places[columns]
        grads["W_dec"][chosen] += factor * (latents[:, columns].T @ missed)
        grads["W_enc"][chosen] += factor * (to_z[:, columns].T @ centred)

    run(backward, parts_of(len(places), LATENTS))
    to_bias = factor * to_z.sum(0)
    grads["b_enc"][places] += to_bias
    grads["b_dec"] -= to_bias @ encoder
    return float(weight * total / variance)
