"""Whether a peer's gradient is ours.

Convention: ours is the gradient of E||x - x_hat||^2 (sum over dimensions, mean over tokens) + lambda * E sum_j f_j
||W_dec_j||, at decoder rows of norm 1. The peer's is divided by `scale`. Of the decoder's gradient the part along its
rows is left out on both sides: it only changes their norm, and libraries differ in whether the norm is part of the loss.
"""

from torch import Tensor

from sae_atlas.kernels.measured import Weights

TOLERANCE = 1e-4  # float32 sums in another order


def difference(ours: Weights, theirs: Weights, decoder, scale: float) -> dict[str, float]:
    """By weight: norm of the difference over the norm of ours. decoder [d_sae, d_in], rows of norm 1."""
    found = {}
    for name in ours:
        one, other = ours[name], theirs[name] / scale
        if name == "W_dec":
            one, other = _across(one, decoder), _across(other, decoder)
        found[name] = float((one - other).norm() / one.norm())
    return found


def gap(z: Tensor, k: int | None = None, threshold: float | Tensor = 0.0) -> Tensor:
    """[tokens]: how far what decides which latents are active is from going the other way.

    z [tokens, d_sae]: pre-activations. k: of TopK, else those above `threshold` are active. Where float32's rounding is as
    large, one implementation may take other latents than another, and both are right.
    """
    if k is None:
        return (z - threshold).abs().amin(dim=1)
    largest = z.topk(k + 1, dim=1).values
    return largest[:, -2] - largest[:, -1]


def _across(grad, decoder):
    return grad - (grad * decoder).sum(1, keepdim=True) * decoder
