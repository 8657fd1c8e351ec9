"""What two ways to the same numbers may differ by: nothing on a grid, rounding elsewhere, a whole value at an edge."""

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


def decided(sae: Sae, x: Tensor, within: float = 1e-4) -> Tensor:
    """Tokens [...] of x [..., d_in] at which no latent is within `within` of the edge of being active.

    There every order of sums finds the same latents active. At the other tokens a rounding error takes or gives one whole
    activation, which is right either way. A ReLU has no such edge: it starts from 0.
    """
    z = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    if sae.k is not None:
        first = z.topk(sae.k + 1, dim=-1).values.relu()
        clear = (first[..., -2] == 0) | (first[..., -2] - first[..., -1] > within)
    else:
        clear = ((sae.threshold <= 0) | ((z - sae.threshold).abs() > within)).all(dim=-1)
    assert clear.float().mean() > 0.9, "too few tokens are left to compare"
    return clear
