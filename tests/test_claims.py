"""The trainers of benchmarks/claims.py: gradients against autograd, what is folded, encodings against the libraries' own."""

from dataclasses import replace

import pytest
import torch

from benchmarks import claim_trainers as trainers
from benchmarks import claims
from benchmarks.claims_report import beats
from sae_atlas.config.read import complete_recipe
from sae_atlas.kernels import reference
from sae_atlas.kernels.measured import Control
from sae_atlas.publish.formats.saelens import both_signs
from sae_atlas.saes import topk
from sae_atlas.saes.checkpoint import fold
from sae_atlas.saes.parts import initial_weights, pre_activations
from sae_atlas.saes.sae import Sae
from sae_atlas.training.recipe import Recipe

D, LATENTS, K, ROWS = 12, 48, 4, 64


@pytest.fixture
def weights() -> dict:
    torch.manual_seed(0)
    found = initial_weights(D, LATENTS, 0.1 * torch.randn(D), seed=1)
    return found | {"b_enc": 0.05 * torch.randn(LATENTS)}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(2)) / D**0.5


def recipe_of(**keys) -> Recipe:
    return Recipe.from_dict(complete_recipe({"expansion": LATENTS // D, "seed": 0, **keys}))


def agree(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_latents_of_either_sign_have_the_gradient_of_tied_halves(weights, x):
    recipe = recipe_of(architecture="topk", k=K)
    control = Control(dead=torch.zeros(LATENTS, dtype=torch.bool))

    class Tied:
        @staticmethod
        def loss(leaves, x, recipe, control):
            return topk.loss(leaves | both_signs(leaves), x, recipe, replace(control, dead=control.dead.repeat(2)))

    grads, measured = trainers.signed_gradients(topk, weights, x, recipe, control)
    expected, _ = reference.gradients(Tied, weights, x, recipe, control)
    agree(grads, expected)
    z = pre_activations(weights, x, control)
    largest = z.abs().topk(K, dim=1).indices
    assert measured.l0 == K
    assert measured.fired.tolist() == [latent in largest for latent in range(LATENTS)]


def test_whitening_that_is_folded_computes_the_same(weights, x):
    """Latents up to the decoder's norms, and the reconstruction; the whitened rows have mean 0, covariance 1."""
    torch.manual_seed(3)
    raw = torch.randn(4096, D) @ torch.randn(D, D) + 5

    class Rows:
        d_in = D

        def batches(self, batch):
            return (each.numpy() for each in raw.split(batch))

    whitening = trainers.Whitening(Rows(), 512, 0.0)
    whitened = whitening(raw)
    torch.testing.assert_close(torch.cov(whitened.T), torch.eye(D), atol=1e-2, rtol=0)
    assert whitening.spread == pytest.approx(float(whitened.square().sum(1).mean()), rel=1e-3)
    config = {"recipe": {"architecture": "batch_topk"}, "tokens": 0}
    state = fold(weights, torch.full((LATENTS,), 0.2), torch.zeros(D), whitening.spread**-0.5)
    inside, outside = Sae(state, config), Sae(whitening.unfolded(state), config)
    f, g = inside.encode(whitened), outside.encode(raw)
    assert (f > 0).any() and torch.equal(f > 0, g > 0)
    rebuilt = inside.decode(f) @ whitening.inverse.float() + whitening.mean.float()
    torch.testing.assert_close(outside.decode(g), rebuilt, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outside.W_dec.norm(dim=1), torch.ones(LATENTS))


def test_a_claim_beats_ours_with_every_seed_at_an_equal_l0():
    def rows(*values, l0=32.0):
        return [{"ce_recovered": [value, 0, 1], "l0": [l0, l0, l0]} for value in values]

    assert beats(rows(0.97, 0.98), rows(0.96, 0.969))
    assert not beats(rows(0.97, 0.98), rows(0.96, 0.971))
    assert not beats(rows(0.97, 0.98, l0=32.7), rows(0.96, 0.969))


def test_what_has_another_l0_is_asked_for_as_many_latents_more_or_less():
    def rows(name, l0):
        return [{"claim": name, "layer": 1, "setting": {"a": 1} if name == "theirs" else {}, "l0": [l0, l0, l0]}]

    for recipe, again in (
        ({"k": 32}, {"a": 1, "k": 34}),
        ({"l1": {"target_l0": 48, "coefficient": 1}}, {"a": 1, "target_l0": 51.2}),
    ):
        claim = claims.Claim("theirs", "ours", recipe, trainers.plain)
        assert claims.at_equal_l0(claim, 1, [{"a": 1}], rows("ours", 32) + rows("theirs", 31.4)) == []
        assert claims.at_equal_l0(claim, 1, [{"a": 1}], rows("ours", 32) + rows("theirs", 30)) == [again]
    assert claims.asked({"k": 32}, {"a": 1, "k": 34}) == {"k": 34}
    assert claims.asked(recipe, again) == {"l1": {"target_l0": 51.2, "coefficient": 1}}
    assert claims.asked(recipe, {"a": 1}) == recipe
