"""The encoder product in int8 finds the entries that the whole product finds, whatever the batch is like."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from random_saes import WITH_ENCODER
from stores import normaliser
from torch.nn.functional import normalize

from sae_atlas.config.read import complete_recipe
from sae_atlas.kernels import cpu, reference, screen
from sae_atlas.kernels.measured import Control
from sae_atlas.kernels.threads import use_threads
from sae_atlas.saes import architecture as module_of
from sae_atlas.saes.architectures import users
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.state import initial_state

D_IN, D_SAE, ROWS, K = 192, 1024, 600, 12  # more than one micro-batch, the last one partial
ROUNDING = 1e-5  # of float32 sums in another order
KINDS = ("noise", "outliers", "hidden", "sparse", "zeros", "alike")

pytestmark = pytest.mark.skipif(not screen.available(), reason="this CPU has no int8 products (AVX-512 VNNI)")


def batch(kind):
    """(encoder [D_SAE, D_IN], bias, x [ROWS, D_IN]) of a kind."""
    use_threads(2)
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    encoder = normalize(torch.randn(D_SAE, D_IN, generator=generator), dim=1)
    x = torch.randn(ROWS, D_IN, generator=generator)
    if kind == "outliers":  # as transformers have them: a few dimensions hold most of the norm
        x[:, :3] *= 60
    elif kind == "hidden":  # one value so large that all others are rounded to 0, and these lie along a latent
        encoder = torch.sign(encoder) / D_IN**0.5  # rounded without an error, which would widen the margin
        x = 4 * encoder[torch.randint(D_SAE, (ROWS,), generator=generator)] + x / 50
        x[:, 0], encoder[:, 0] = 100.0, 0
    elif kind == "sparse":
        x *= torch.rand(ROWS, D_IN, generator=generator) < 0.05
    elif kind == "zeros":
        x[::3], encoder[::5] = 0, 0
    elif kind == "alike":  # all are rounded down by as much, and all weights are positive: the errors add up
        encoder = normalize(1 + torch.randn(D_SAE, D_IN, generator=generator) / 100, dim=1)
        x = 30 * 1.4 / 127 * (1 + torch.randn(ROWS, 1, generator=generator) / 1000).repeat(1, D_IN)
        x[:, 0] = 30
        return encoder, 1 + torch.rand(D_SAE, generator=generator) / 2 - (x @ encoder.T).mean(0), x
    return encoder, torch.full((D_SAE,), -0.1), x


def found_by(kind, entries_of):
    """Entries as (dense matrix of values, which are there), of the screened and of the whole product."""
    encoder, bias, x = batch(kind)
    weights = {"W_enc": encoder, "b_enc": bias, "W_dec": encoder, "b_dec": torch.zeros(D_IN)}
    results = []
    for density, way in ((0.0, screen.Screened), (1.0, cpu.Whole)):
        step = cpu.Step(weights, x, Control(density=density))
        assert isinstance(step.encoded, way)
        entries = entries_of(step)
        rows = np.repeat(np.arange(ROWS), np.diff(entries.starts))
        dense = torch.zeros(ROWS, D_SAE)
        dense[rows, entries.columns.long()] = entries.values
        results.append((dense, entries))
    return results, x @ encoder.T + bias


def assert_same(results, edge, z):
    """The same entries but for those within rounding of the edge, and the same values."""
    (one, entries), (two, others) = results
    assert len(others.values) > ROWS
    scale = ROUNDING * max(1.0, float(z.abs().max()))
    differ = (one != 0) ^ (two != 0)
    assert ((z - edge).abs()[differ] < scale).all(), int(differ.sum())
    assert differ.sum() <= len(others.values) / 1000
    torch.testing.assert_close(one[~differ], two[~differ], rtol=ROUNDING, atol=scale)
    for each in (entries, others):
        for row in np.split(each.columns.numpy(), each.starts[1:-1]):
            assert (np.diff(row) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_entries_above_a_threshold(kind):
    results, z = found_by(kind, lambda step: step.above(0.5))
    assert_same(results, torch.tensor(0.5), z)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_above_each_latents_threshold(kind):
    low = torch.linspace(0.2, 1.5, D_SAE)
    results, z = found_by(kind, lambda step: step.above(low))
    assert_same(results, low, z)


@pytest.mark.parametrize("kind", KINDS)
def test_largest_of_each_row(kind):
    results, z = found_by(kind, lambda step: step.largest(K))
    assert_same(results, z.clamp(min=0).topk(K, dim=1).values[:, -1:], z)
    for _, entries in results:
        assert np.diff(entries.starts).max() == K


def test_fewer_than_k_are_positive():
    results, z = found_by("noise", lambda step: step.largest(D_SAE - 10))
    assert_same(results, torch.zeros(()), z)


@pytest.mark.parametrize("kind", KINDS)
def test_no_pre_activation_is_above_what_the_products_allow(kind):
    encoder, bias, x = batch(kind)
    screened = screen.Screened(encoder, x)
    (products, rows), latents = screened.products((0, 256)), screened.latents
    high = np.empty((256, D_SAE), np.float32)
    for row in range(256):
        numbers = (each[row] for each in rows)
        screen.upper_bounds(products[row], *numbers, *latents, bias.numpy(), high[row])
    exact = (x[:256].double() @ encoder.double().T + bias).numpy()
    assert (high >= exact).all()
    if kind == "noise":  # the errors are what the margins take them for: far below them, and as large as said
        errors = (np.float32(products) * rows[0][:, None] * latents[0] + bias.numpy()) - exact
        margins = rows[2][:, None] * latents[1] + rows[1][:, None] * latents[2]
        share = errors.std() / margins.mean() * screen.SIGMAS
        assert 0.6 < share < 0.85  # two independent errors of one size, whose bounds are added: 1 / sqrt(2)


def clear_of_edges(weights, x, recipe, within=1e-6):
    """The rows of x at which no pre-activation is where the gradient jumps: rounding would move it across on some CPU.

    Pre-activations are about 0.1, sums of 192 products: rounding is some 1e-8 of them.
    """
    u = (x - weights["b_dec"]).double() @ weights["W_enc"].T.double()
    z = u + weights["b_enc"]
    distances = [z]
    if recipe.architecture == "jumprelu":
        distances += [z - edge for edge in (0.4, 0.5, 0.6)]
    elif recipe.architecture == "gated":
        distances = [u + weights["b_gate"], u * weights["r_mag"].exp() + weights["b_enc"]]
    clear = torch.stack([(each.abs() > within).all(1) for each in distances]).all(0)
    if recipe.architecture in users("k"):  # of a row, or of the batch; the k-th may be one of the zeros
        rows, k = (z, K) if recipe.architecture == "topk" else (z[clear].reshape(1, -1), K * int(clear.sum()))
        last, next_one = rows.relu().topk(k + 1, dim=1).values[:, -2:].T
        apart = (last == 0) | (last - next_one > within)
        clear = clear & apart if recipe.architecture == "topk" else clear
        assert recipe.architecture == "topk" or apart.all()
    assert clear.sum() > 0.9 * len(x)
    return x[clear]


@pytest.mark.parametrize("architecture", WITH_ENCODER)  # that have an encoder
def test_gradients_are_those_of_autograd(architecture):
    keys = {"k": K} if architecture in users("k") else {}
    if architecture == "jumprelu":
        keys = {"jumprelu": {"threshold": 0.5, "bandwidth": 0.2, "target_l0": 5}}
    recipe = Recipe.from_dict(complete_recipe({"architecture": architecture, "expansion": 4, **keys}))
    generator = torch.Generator().manual_seed(1)
    weights = initial_state(recipe, normaliser(D_IN)).weights
    for name in ("b_enc", "b_gate"):
        if name in weights:
            weights[name] -= 0.2
    x = clear_of_edges(weights, torch.randn(ROWS, D_IN, generator=generator) / D_IN**0.5, recipe)
    control = Control(penalty=0.1, dead=torch.arange(4 * D_IN) < 30, smallest=0.1, density=0.0)
    use_threads(2)
    expected, told = reference.gradients(module_of(architecture), weights, x, recipe, control)
    found, measured = cpu.gradients(module_of(architecture), weights, x, recipe, control)
    assert measured.loss == pytest.approx(told.plain().loss, rel=1e-5)
    for name in expected:
        assert (found[name] - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


def test_products_that_saturate_are_not_used():
    """What torch takes in place of the instructions for int8, when it may not use them."""
    code = "from sae_atlas.kernels import screen; print(screen.available())"
    for most, expected in (("AVX512_CORE_VNNI", "True"), ("AVX2", "False")):
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": most}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr


def test_any_number_of_threads_gives_the_same_bits():
    encoder, bias, x = batch("noise")
    found = []
    for threads in (1, 2):
        use_threads(threads)
        step = cpu.Step({"W_enc": encoder, "b_enc": bias, "W_dec": encoder, "b_dec": torch.zeros(D_IN)}, x, Control())
        step.encoded = screen.Screened(encoder, x)
        found.append(step.largest(K))
    assert torch.equal(found[0].columns, found[1].columns)
    assert torch.equal(found[0].values, found[1].values)
