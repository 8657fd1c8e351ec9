"""Gradient of AuxK (parts.auxk_loss) in closed form, dense over the dead latents only."""

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Weights
from sae_atlas.kernels.threads import parts_of, run
from sae_atlas.saes.parts import aux_latents, keep_largest, variance_of

LATENTS_AT_ONCE = 512  # in one product of the backward pass


def add_auxk(step, grads: Weights, error: Tensor, auxk) -> float | Tensor:
    """Add the gradient of auxk.coefficient * auxk_loss to `grads`; returns that term.

    step: as sparse_gradients gets it; error: parts.decoder_error, a constant here; auxk: the recipe's.
    """
    dead_latents, real = step.dead()
    if not auxk.coefficient or not len(dead_latents):
        return 0.0
    k = aux_latents(step.d_in, auxk.latents)
    encoder, decoder, bias = (step.weights[name][dead_latents] for name in ("W_enc", "W_dec", "b_enc"))
    missed = torch.empty_like(error)
    latents, to_z = (error.new_empty(len(error), len(dead_latents)) for _ in range(2))

    def forward(part: tuple[int, int]) -> Tensor:
        rows = slice(*part)
        z = torch.addmm(bias, step.x[rows], encoder.T)
        latents[rows] = keep_largest(z if real is None else z * real, k)
        torch.addmm(error[rows], latents[rows], decoder, beta=-1, out=missed[rows])
        torch.mm(missed[rows], decoder.T, out=to_z[rows]).mul_(latents[rows] > 0)
        return missed[rows].square().sum()

    total = sum(run(forward, step.micro_batches))
    variance = variance_of(error)
    factor = 2 * auxk.coefficient / variance

    def backward(part: tuple[int, int]) -> None:
        columns = slice(*part)
        chosen = dead_latents[columns]
        grads["W_dec"][chosen] += factor * (latents[:, columns].T @ missed)
        grads["W_enc"][chosen] += factor * (to_z[:, columns].T @ step.x)

    run(backward, parts_of(len(dead_latents), LATENTS_AT_ONCE))
    to_bias = factor * to_z.sum(0)
    grads["b_enc"][dead_latents] += to_bias
    if step.control.target is None:
        grads["b_dec"] -= to_bias @ encoder
    if real is None:
        return auxk.coefficient * total / variance
    return torch.where(real.any(), auxk.coefficient * total / variance, 0.0)
