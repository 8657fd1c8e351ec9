"""What TopK, BatchTopK and Matryoshka share: the loss of latents that were chosen by size, its gradient, and AuxK.

The loss is the mean over nested prefixes of the latents of ||x - x_hat_prefix||^2, plus auxk.coefficient * auxk_loss. TopK and
BatchTopK have one prefix, which is all latents.
"""

from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights, decoder_error
from sae_atlas.saes.auxk import add_auxk
from sae_atlas.saes.parts import Loss, aux_latents, auxk_loss, reconstruct, squared_error


def loss_of_largest(
    weights: Weights, x: Tensor, z: Tensor, latents: Tensor, prefixes: list[int], recipe, control: Control
) -> Loss:
    """x [batch, d_in], scaled; z, latents [batch, d_sae]; prefixes: where they end, ascending, the last is d_sae."""
    prefix_weights = [{**weights, "W_dec": weights["W_dec"][:end]} for end in prefixes]
    rebuilt = [reconstruct(each, x, latents[:, :end]) for each, end in zip(prefix_weights, prefixes, strict=True)]
    errors = [squared_error(x, x_hat, control) for x_hat in rebuilt]
    dead_latents = aux_latents(x.shape[1], recipe.auxk.latents)
    auxiliary = recipe.auxk.coefficient * auxk_loss(
        weights, decoder_error(x, rebuilt[-1], control), z, control.dead, dead_latents
    )
    return Loss(sum(errors) / len(errors) + auxiliary, errors[-1], x.new_zeros(()), latents, rebuilt[-1])


def gradients_of_largest(step, entries, prefixes: list[int], recipe):
    """The gradient of the loss from the active entries (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    decoded = step.decode(entries, entries.values, prefixes)
    scale = 2 / step.rows / len(prefixes)
    pulled = step.pulled(entries, decoded, scale)
    grads = step.accumulate(entries, pulled, entries.values, pulled.dots * scale, scale)
    auxiliary = add_auxk(step, grads, -decoded.residuals[:, -1], recipe.auxk)
    prefix_error = decoded.squared_error_of_prefixes / len(prefixes) - decoded.squared_error
    return grads, step.measured(entries, None, decoded.squared_error, more=prefix_error + auxiliary)
