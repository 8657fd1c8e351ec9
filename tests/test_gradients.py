"""The sparse and the dense step equal autograd of the architecture's loss, in float64, for every architecture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stores import normaliser

from sae_atlas.config.read import complete_recipe
from sae_atlas.kernels import cpu, loops, reference
from sae_atlas.kernels.measured import Control
from sae_atlas.kernels.threads import use_threads
from sae_atlas.saes import architecture as module_of
from sae_atlas.saes.architectures import ARCHITECTURES
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.state import initial_state

D_IN, ROWS = 12, 600  # more than one micro-batch, the last one partial
KEYS = {
    "relu": {},
    "gated": {},
    "topk": {"k": 5},
    "batch_topk": {"k": 5},
    "matryoshka": {"k": 5},
    "matching_pursuit": {"k": 5},
    "jumprelu": {"jumprelu": {"threshold": 0.3, "bandwidth": 0.1, "target_l0": 5}},
}

SPARSE, DENSE = 0.0, 1.0  # active fraction of the step before, by which the path is chosen
PATHS = [*((name, SPARSE) for name in ARCHITECTURES), ("relu", DENSE), ("jumprelu", DENSE)]


def problem(architecture, dtype=torch.float64, **keys):
    """Recipe, weights moved off their symmetric start, a batch, moments of zeros."""
    recipe = Recipe.from_dict(
        complete_recipe({"architecture": architecture, "expansion": 4, **KEYS[architecture], **keys})
    )
    generator = torch.Generator().manual_seed(1)
    state = initial_state(recipe, normaliser(D_IN, torch.randn(D_IN, generator=generator) / 10))
    weights = {
        name: (weight + torch.randn(weight.shape, generator=generator) / 30).to(dtype)
        for name, weight in state.weights.items()
    }
    x = torch.randn(ROWS, D_IN, generator=generator).to(dtype) / D_IN**0.5
    zeros = [{name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2)]
    return recipe, weights, x, zeros


def gradients(recipe, weights, x, control, threads=1):
    use_threads(threads)
    grads, measured = cpu.gradients(module_of(recipe.architecture), weights, x, recipe, control)
    return {name: grad.clone() for name, grad in grads.items()}, measured  # the arrays are used again


@pytest.mark.parametrize("dead", [0, 30])
@pytest.mark.parametrize(("architecture", "density"), PATHS)
def test_equals_autograd(architecture, density, dead):
    recipe, weights, x, _ = problem(architecture)
    control = Control(penalty=0.1, dead=torch.arange(4 * D_IN) < dead, smallest=0.1, density=density)
    expected, told = reference.gradients(module_of(recipe.architecture), weights, x, recipe, control)
    told, (found, measured) = told.plain(), gradients(recipe, weights, x, control)
    assert set(found) == set(expected) == set(weights)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
        assert expected[name].abs().max() > 0, f"{name} is not tested"
    for value in ("loss", "reconstruction", "sparsity", "l0", "smallest"):
        if (architecture, value) == ("gated", "smallest"):
            continue  # the sparse step tells the smallest open gate, which nothing uses
        assert getattr(measured, value) == pytest.approx(getattr(told, value), rel=1e-12)
    assert torch.equal(measured.fired, told.fired)


def test_dead_latents_learn_nothing_from_a_batch_of_one_token():
    recipe, weights, x, _ = problem("topk")
    assert recipe.auxk.coefficient
    control = Control(penalty=0.1, dead=torch.arange(4 * D_IN) < 30, smallest=0.1, density=SPARSE)
    expected, told = reference.gradients(module_of("topk"), weights, x[:1], recipe, control)
    found, measured = gradients(recipe, weights, x[:1], control)
    for name in expected:
        assert found[name].isfinite().all()
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
    assert measured.loss == pytest.approx(told.plain().loss, rel=1e-12)


@pytest.mark.parametrize("density", [SPARSE, DENSE])
def test_an_annealed_penalty_equals_autograd(density):
    """Also where nothing is active, at which the slope of a power is infinite."""
    recipe, weights, x, _ = problem("relu")
    for bias, penalties in ((0, (1e-3, 10)), (100, (0, 0))):
        weights["b_enc"] -= bias
        for power in (0.2, 0.7):
            control = Control(penalty=0.1, density=density, power=power)
            expected, told = reference.gradients(module_of("relu"), weights, x, recipe, control)
            told, (found, measured) = told.plain(), gradients(recipe, weights, x, control)
            for name in expected:
                assert expected[name].isfinite().all()
                torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-14)
            assert measured.sparsity == pytest.approx(told.sparsity, rel=1e-12)
            assert penalties[0] <= told.sparsity <= penalties[1]


def test_a_power_of_one_is_the_plain_penalty():
    recipe, weights, x, _ = problem("relu")
    plain, near = (
        gradients(recipe, weights, x, Control(penalty=0.1, density=SPARSE, power=p))[0] for p in (1, 1 - 1e-9)
    )
    for name in plain:
        torch.testing.assert_close(plain[name], near[name], rtol=1e-6, atol=1e-9)


def pull_to(x, matrix):
    """The gradient, as Control.pull, of a loss of the reconstruction that is no squared error; and that loss."""

    def loss(x_hat):
        return 3 * (x_hat @ matrix).tanh().square().sum() / len(x)

    def pull(error):
        x_hat = (x + error).requires_grad_()
        return torch.autograd.grad(loss(x_hat), x_hat)[0]

    return pull, loss


@pytest.mark.parametrize("backend", [cpu, reference])
@pytest.mark.parametrize(("architecture", "density"), PATHS)
def test_the_gradient_of_a_further_loss_reaches_the_whole_reconstruction_alone(architecture, density, backend):
    """Not the shorter prefixes of Matryoshka, not what Gated's gate rebuilds, not AuxK; and nothing else is measured."""
    recipe, weights, x, _ = problem(architecture)
    pull, further = pull_to(x, torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(4)).double())
    alone = Control(penalty=0.1, dead=torch.arange(4 * D_IN) < 30, smallest=0.1, density=density)
    use_threads(1)
    module, control = module_of(recipe.architecture), replace(alone, pull=pull)
    found, measured = backend.gradients(module, weights, x, recipe, control)
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    loss = module.loss(leaves, x, recipe, alone)
    total = loss.total + further(loss.rebuilt)
    expected = dict(zip(leaves, torch.autograd.grad(total, [*leaves.values()]), strict=True))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
    assert measured.plain().loss == pytest.approx(loss.total.item(), rel=1e-12)
    assert further(loss.rebuilt).item() > 0.1


@pytest.mark.parametrize(("architecture", "density"), PATHS)
def test_any_number_of_threads_gives_the_same_bits(architecture, density):
    recipe, weights, _, _ = problem(architecture, torch.float32)
    x = torch.randn(2000, D_IN, generator=torch.Generator().manual_seed(2)) / D_IN**0.5
    control = Control(penalty=0.1, dead=torch.arange(4 * D_IN) < 30, smallest=0.1, density=density)
    one, two = (gradients(recipe, weights, x, control, threads)[0] for threads in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("architecture", "density"), [path for path in PATHS if path[0] in ("relu", "jumprelu", "gated")]
)
def test_no_active_latent_is_no_special_case(architecture, density):
    recipe, weights, x, _ = problem(architecture)
    for name in ("b_enc", "b_gate"):
        if name in weights:
            weights[name] -= 100
    control = Control(penalty=0.1, density=density)
    expected, _ = reference.gradients(module_of(recipe.architecture), weights, x, recipe, control)
    found, measured = gradients(recipe, weights, x, control)
    assert measured.l0 == 0
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("architecture", ["relu", "jumprelu"])
def test_what_is_not_finite_shows_in_the_dense_step(architecture):
    recipe, weights, x, _ = problem(architecture)
    x[300, 3] = float("nan")
    _, measured = gradients(recipe, weights, x, Control(penalty=0.1, density=DENSE))
    assert not np.isfinite(measured.loss)


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_adam_equals_torch_on_the_clipped_projected_gradient(clip):
    recipe, weights, x, moments = problem("topk", clip=clip)
    weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
    truth = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    optimizer = torch.optim.Adam(truth.values(), lr=1e-2)
    for step in (1, 2, 3):
        grads, _ = gradients(recipe, weights, x, Control(density=0.0))
        for name, weight in truth.items():
            weight.grad = grads[name].clone()
        decoder = truth["W_dec"]
        along = (decoder.grad * decoder.data).sum(1, keepdim=True)
        decoder.grad -= along * decoder.data
        expected_norm = torch.nn.utils.clip_grad_norm_(truth.values(), clip).item()
        optimizer.step()
        decoder.data /= decoder.data.norm(dim=1, keepdim=True)
        norm = cpu.update(weights, grads, moments, recipe, step, 1e-2)
        assert norm == pytest.approx(expected_norm, rel=1e-9)
        for name in weights:
            torch.testing.assert_close(weights[name], truth[name].data, rtol=1e-5, atol=1e-7)


def test_the_backends_update_alike():
    recipe, weights, x, moments = problem("gated")
    grads, _ = gradients(recipe, weights, x, Control(0.1, density=0.0))
    copies = [{name: each.clone() for name, each in part.items()} for part in (weights, *moments)]
    norm = cpu.update(weights, grads, moments, recipe, 1, 1e-3)
    assert norm == pytest.approx(reference.update(copies[0], grads, copies[1:], recipe, 1, 1e-3), rel=1e-12)
    for name in weights:
        torch.testing.assert_close(weights[name], copies[0][name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", [cpu, reference])
def test_a_gradient_that_is_not_finite_changes_nothing(backend):
    recipe, weights, x, moments = problem("relu")
    grads, _ = gradients(recipe, weights, x, Control(0.1, density=0.0))
    grads["W_enc"][3, 2] = float("nan")
    before = {name: weight.clone() for name, weight in weights.items()}
    assert not np.isfinite(backend.update(weights, grads, moments, recipe, 1, 1e-3))
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def rows_of_every_kind():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 300)) * np.exp(2 * generator.normal(size=(40, 1)))  # sizes far apart
    rows[3] = -1.0  # no positive entry
    rows[4] = 0.0
    rows[5] = 1.0  # all equal
    rows[6, 7:] = -1.0  # fewer positive than k
    rows[7] = np.round(rows[7])  # ties
    rows[8, 100] = 1e6
    return rows.astype(np.float32)


@pytest.mark.parametrize("k", [1, 8, 299, 300, 400])
def test_largest_by_threshold_are_those_of_a_sort(k):
    z = rows_of_every_kind()
    counts, columns, values = np.empty(40, np.int64), np.empty(z.size, np.int32), np.empty(z.size, np.float32)
    end = loops.collect_largest(z, k, counts, columns, values)
    assert end == counts.sum()
    for row, part in enumerate(np.split(np.arange(end), np.cumsum(counts)[:-1])):
        order = np.argsort(-z[row], kind="stable")[:k]  # of equal entries the first
        assert columns[part].tolist() == sorted(order[z[row, order] > 0].tolist())
        assert np.array_equal(values[part], z[row, columns[part]])


def test_jumprelu_pseudo_derivative_by_hand():
    """One token, one latent within the band and one above it: df/dtheta = -(theta/eps), dL0/dtheta = -1/eps."""
    recipe = Recipe.from_dict(
        complete_recipe(
            {
                "architecture": "jumprelu",
                "expansion": 1,
                "jumprelu": {"bandwidth": 0.2, "threshold": 0.5, "target_l0": 4},
            }
        )
    )
    eye = torch.eye(2, dtype=torch.float64)
    zeros = torch.zeros(2, dtype=torch.float64)
    weights = {"W_enc": eye, "W_dec": eye.clone(), "b_enc": zeros, "b_dec": zeros.clone(), "threshold": zeros + 0.5}
    x = torch.tensor([[0.55, 2.0]], dtype=torch.float64)
    for backend in (cpu, reference):
        grads, measured = backend.gradients(
            module_of(recipe.architecture), weights, x, recipe, Control(penalty=3.0, density=0.0)
        )
        assert measured.plain().reconstruction == pytest.approx(0, abs=1e-12)
        by_l0 = 3.0 * 2 * (2 / 4 - 1) / 4 * -(1 / 0.2)
        assert grads["threshold"].tolist() == pytest.approx([by_l0, 0.0])
