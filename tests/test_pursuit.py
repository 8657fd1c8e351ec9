"""Matching pursuit: the gradient equals autograd's, on any number of threads the same bits, whatever else pulls at it."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from random_saes import activations, random_sae
from test_gradients import pull_to

from sae_atlas.kernels import reference
from sae_atlas.kernels.cpu import Step
from sae_atlas.kernels.measured import Control
from sae_atlas.kernels.threads import use_threads
from sae_atlas.saes import matching_pursuit

D, LATENTS, ROWS, K = 12, 40, 300, 6  # rows of several parts, the last one partial
RECIPE = SimpleNamespace(k=K)


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    decoder = torch.randn(LATENTS, D, generator=generator)
    weights = {
        "W_dec": decoder / decoder.norm(dim=1, keepdim=True),
        "b_dec": torch.randn(D, generator=generator) / 10,
    }
    x = torch.randn(ROWS, D, generator=generator) / D**0.5
    x[5] = weights["b_dec"]  # nothing is left from the start
    return {name: weight.to(dtype) for name, weight in weights.items()}, x.to(dtype)


@pytest.mark.parametrize("is_pulled", [False, True])
def test_equals_autograd(is_pulled):
    weights, x = problem()
    matrix = torch.randn(D, D, generator=torch.Generator().manual_seed(4)).double()
    control = Control(density=0.0, pull=pull_to(x, matrix)[0] if is_pulled else None)
    expected, told = reference.gradients(matching_pursuit, weights, x, RECIPE, control)
    use_threads(2)
    found, measured = matching_pursuit.sparse_gradients(Step(weights, x, control), weights, RECIPE, control)
    assert set(found) == set(weights)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
    told = told.plain()
    assert (measured.loss, measured.l0) == (pytest.approx(told.loss, rel=1e-12), told.l0)
    assert torch.equal(measured.fired, told.fired) and 0 < told.l0 < K  # some rows take a latent twice


def test_any_number_of_threads_gives_the_same_bits():
    weights, x = problem(torch.float32)
    found = []
    for threads in (1, 2, 3):
        use_threads(threads)
        grads, _ = Step(weights, x, Control()).pursue(K)
        found.append({name: grad.clone() for name, grad in grads.items()})
    assert all(torch.equal(each[name], found[0][name]) for each in found for name in weights)


def test_every_latent_takes_its_part_of_what_is_left():
    weights, x = problem()
    left = x - weights["b_dec"]
    sizes = [left.norm(dim=1)]
    for k in (1, 2, 6):
        latents = matching_pursuit.encode(left, weights["W_dec"], k)
        assert ((latents > 0).sum(1) <= k).all() and (latents >= 0).all()
        sizes.append((left - latents @ weights["W_dec"]).norm(dim=1))
    assert all((after <= before + 1e-12).all() for before, after in itertools.pairwise(sizes))
    first = matching_pursuit.encode(left, weights["W_dec"], 1)
    assert torch.equal(
        first.argmax(1)[left.norm(dim=1) > 0], (left @ weights["W_dec"].T).argmax(1)[left.norm(dim=1) > 0]
    )


def test_products_that_follow_from_those_of_the_decoder_are_the_same():
    weights, x = problem()
    decoder = weights["W_dec"]
    found = matching_pursuit.encode(x, decoder, K), matching_pursuit.encode(x, decoder, K, decoder @ decoder.T)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)


def test_an_sae_takes_the_same_of_a_few_tokens_as_of_many_and_of_a_decoder_that_was_changed():
    sae, x = random_sae("matching_pursuit"), activations()
    many, few = sae.encode(x), torch.cat([sae.encode(each) for each in x.split(1)])
    torch.testing.assert_close(many, few, rtol=1e-4, atol=1e-4)
    sae.W_dec = sae.W_dec.flip(0)
    torch.testing.assert_close(sae.encode(x), many.flip(1), rtol=1e-4, atol=1e-4)
    sae.W_dec.copy_(sae.W_dec.flip(0))
    torch.testing.assert_close(sae.encode(x), many, rtol=1e-4, atol=1e-4)
    assert sae.encode(x.reshape(2, -1, x.shape[1])).shape == (2, len(x) // 2, sae.d_sae)


def test_an_sae_encodes_in_lower_precision_and_with_a_gradient():
    sae, x = random_sae("matching_pursuit"), activations()
    with torch.no_grad():
        latents, error = sae.encode(x), (sae(x) - x).square().sum()
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(sae.encode(leaf), latents, rtol=1e-4, atol=1e-4)
    sae.encode(leaf).sum().backward()
    assert leaf.grad.abs().max() > 0
    low = sae.to(torch.bfloat16)(x)
    assert low.dtype == torch.bfloat16  # near ties it takes other latents, which serve as well
    assert (low.float() - x).square().sum().item() == pytest.approx(error.item(), rel=0.05)
