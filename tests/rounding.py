"""What two ways to the same numbers may differ by: nothing on a grid, rounding elsewhere, a whole value at an edge."""

import torch
from torch import Tensor

from sae_atlas.saes.sae import Sae

STEP = 1 / 16


def on_grid(values: Tensor) -> Tensor:
    """To multiples of 1/16: sums of some hundred products of such numbers below 16 are exact in float32, in any order."""
    return (values / STEP).round() * STEP


def exact(sae: Sae) -> Sae:
    """The SAE with all weights on the grid, in place: on inputs of the grid every CPU finds the same latents, to the bit."""
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
        setattr(sae, name, on_grid(getattr(sae, name)))
    return sae


def assert_same_function(other, sae: Sae, x: Tensor) -> None:
    """`other` (anything that encodes x and is called on it) gives the latents and reconstructions of `sae`, to rounding.

    It may subtract b_dec from x or have moved it through the encoder. Of a transcoder they are its predictions.

    A float32 sum of n products is off by up to n / 2 eps of the sum of their sizes, whatever its order: two such sums, of
    d_in products for a latent and of d_sae for a reconstruction, to which the errors of the latents come.
    """
    assert decided(sae, x).all()
    latents, eps = sae.encode(x), torch.finfo(torch.float32).eps
    read = x.abs() if sae.is_transcoder else x.abs() + sae.b_dec.abs()
    of_latents = (sae.d_in + 2) * eps * (read @ sae.W_enc.abs() + sae.b_enc.abs())
    if sae.inference == "pursuit":
        of_latents *= sae.k  # each latent reads what those before leave
    summed = latents @ sae.W_dec.abs() + sae.b_dec.abs()
    if sae.W_skip is not None:
        summed += x.abs() @ sae.W_skip.abs().T
    of_outputs = (sae.d_sae + 2 + (0 if sae.W_skip is None else sae.d_in)) * eps * summed
    of_outputs += (of_latents * (latents > 0)) @ sae.W_dec.abs()
    assert ((other.encode(x) - latents).abs() <= of_latents).all()
    assert ((other(x) - sae(x)).abs() <= of_outputs).all()
    assert (of_latents < 0.01 * latents.max()).all()  # or it would tell nothing


def decided(sae: Sae, x: Tensor, within: float = 1e-4) -> Tensor:
    """Tokens [...] of x [..., d_in] at which no latent is within `within` of the edge of being active.

    There every order of sums finds the same latents active. At the other tokens a rounding error takes or gives one whole
    activation, which is right either way. A ReLU has no such edge: it starts from 0.
    """
    z = sae.pre_activations(x)
    if sae.inference == "pursuit":
        clear = _decided_in_turn(z, x - sae.b_dec, sae, within)
    elif sae.k is not None:
        first = z.topk(sae.k + 1, dim=-1).values.relu()
        clear = (first[..., -2] == 0) | (first[..., -2] - first[..., -1] > within)
    else:
        clear = ((sae.threshold <= 0) | ((z - sae.threshold).abs() > within)).all(dim=-1)
    assert clear.float().mean() > 0.9, "too few tokens are left to compare"
    return clear


def _decided_in_turn(products: Tensor, left: Tensor, sae: Sae, within: float) -> Tensor:
    clear = torch.ones(left.shape[:-1], dtype=torch.bool)
    for _ in range(sae.k):
        (value, second), chosen = products.topk(2, dim=-1).values.unbind(-1), products.argmax(-1)
        clear &= (value < 0) | (value - second > within)
        left = left - value.relu()[..., None] * sae.W_dec[chosen]
        products = left @ sae.W_dec.T
    return clear
