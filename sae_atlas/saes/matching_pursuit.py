"""Matching pursuit (arXiv 2506.03093): latents one after the other, each of what those before leave.

From r = x - b_dec, k times: j is the latent whose decoder row has the largest product with r, f_j grows by ReLU(r . W_dec_j),
and r loses that part. The encoder is the decoder. Loss: ||r||^2 in the end, whose gradient goes through the values and not
through the choices, as SAELens' does.
"""

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.parts import Loss, reconstruct, squared_error

# On a GPU every latent of a batch is a few large operations already; in lower precision the choices would be others.
BY_AUTOGRAD_ON_GPU = True
KERNEL = (torch.float32, torch.float64)  # what numba reads


def encode(x: Tensor, decoder: Tensor, k: int, gram: Tensor | None = None) -> Tensor:
    """Latents [rows, d_sae] of x [rows, d_in], without b_dec. decoder [d_sae, d_in].

    gram: decoder @ decoder.T, from which follows what a latent takes from all products; without it they are computed anew for
    every latent, which is cheaper where there are fewer of them than the decoder has rows.
    """
    differentiates = torch.is_grad_enabled() and (x.requires_grad or decoder.requires_grad)
    if gram is not None and x.device.type == "cpu" and x.dtype in KERNEL and not differentiates:
        from sae_atlas.kernels import pursuit  # here: other architectures encode without numba

        return pursuit.latents(x.detach(), decoder.detach(), k, gram)
    latents, left = x.new_zeros(len(x), len(decoder)), x
    with torch.no_grad():
        products = x @ decoder.T
    for step in range(k):
        with torch.no_grad():
            if step and gram is None:
                products = left @ decoder.T
            chosen = products.argmax(1)
        rows = decoder[chosen]
        values = (left * rows).sum(1, keepdim=True).relu()
        latents = latents.scatter_add(1, chosen[:, None], values)
        left = left - values * rows
        if gram is not None:
            with torch.no_grad():
                products.addcmul_(values, gram[chosen], value=-1)
    return latents


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled."""
    decoder = weights["W_dec"]
    latents = encode(x - weights["b_dec"], decoder, recipe.k, (decoder @ decoder.T).detach())
    rebuilt = reconstruct(weights, x, latents)
    reconstruction = squared_error(x, rebuilt, control)
    return Loss(reconstruction, reconstruction, x.new_zeros(()), latents, rebuilt)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss`, from the last latent of every row back to its first (step: cpu.Step of sae_atlas/kernels)."""
    return step.pursue(recipe.k)


def inference(weights: Weights, smallest: float) -> tuple[Weights, None]:
    """Checkpoints hold an encoder; here it is a copy of the decoder."""
    decoder = weights["W_dec"]
    return {**weights, "W_enc": decoder, "b_enc": torch.zeros(len(decoder)).to(decoder)}, None
