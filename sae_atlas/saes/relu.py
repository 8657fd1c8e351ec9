"""ReLU with an L1 penalty weighted by decoder norms.

Anthropic, "Update on how we train SAEs" (Circuits Updates, April 2024):
||x - x_hat||^2 + lambda sum_j f_j ||W_dec_j||, f = ReLU(z). Decoder rows are kept at unit norm here, so the weight is 1.
"""

from torch import Tensor

from sae_atlas.saes.parts import Control, Loss, Weights, pre_activations, reconstruct, squared_error


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled."""
    latents = pre_activations(weights, x).relu()
    reconstruction = squared_error(x, reconstruct(weights, latents))
    sparsity = control.penalty * (latents @ weights["W_dec"].norm(dim=1)).mean()
    return Loss(reconstruction + sparsity, reconstruction, sparsity, latents)
