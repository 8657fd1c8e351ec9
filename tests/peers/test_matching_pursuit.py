"""The step of matching pursuit beside SAELens' own: the same latents and the same gradient."""

import torch

from benchmarks.stubs import put_in_place
from sae_atlas.kernels.cpu import Step
from sae_atlas.kernels.measured import Control
from sae_atlas.saes import matching_pursuit

put_in_place()  # of packages that SAELens imports and none of this needs

D, LATENTS, ROWS, K = 24, 96, 128, 6


def test_latents_and_gradient_are_those_of_saelens():
    """Where it never stops early."""
    from sae_lens.saes.matching_pursuit_sae import _encode_matching_pursuit

    generator = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(LATENTS, D, generator=generator), dim=1).double()
    weights = {"W_dec": decoder, "b_dec": torch.zeros(D).double()}
    x = torch.randn(ROWS, D, generator=generator).double()
    leaf = decoder.clone().requires_grad_()
    latents = _encode_matching_pursuit(x, leaf, 0, K, False)
    (x - latents @ leaf).square().sum(1).mean().backward()
    torch.testing.assert_close(matching_pursuit.encode(x, decoder, K), latents.detach(), rtol=1e-10, atol=1e-12)
    found, _ = Step(weights, x, Control()).pursue(K)
    torch.testing.assert_close(found["W_dec"], leaf.grad, rtol=1e-10, atol=1e-12)
