"""The GPU's step equals autograd, and the loop that runs ahead of it loses nothing.

Without a GPU the Triton kernels run in Triton's interpreter (conftest.py), on small sizes; tests marked `gpu` need a card.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
import zarr
from random_saes import WITH_ENCODER
from stores import make_store, normaliser
from test_gradients import KEYS, pull_to, rows_of_every_kind
from test_train import recipe_of, run, same

from sae_atlas.config.read import complete_recipe
from sae_atlas.io.errors import AtlasError
from sae_atlas.kernels import reference
from sae_atlas.kernels.measured import Control
from sae_atlas.saes import architecture as module_of
from sae_atlas.saes.architectures import ARCHITECTURES
from sae_atlas.saes.checkpoint import load_checkpoint, load_tensors
from sae_atlas.training import window
from sae_atlas.training.interruption import EXIT_CODE
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.state import initial_state

pytest.importorskip("triton", reason="Triton has wheels for Linux only")
from sae_atlas.kernels import gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA GPU")
D_IN, EXPANSION, ROWS = 24, 4, 32  # d is no power of two
SILENT, EMPTY = 7, 3  # a latent that is never active, a row without an active one
EXACT = {torch.float64: {"rtol": 1e-11, "atol": 1e-13}, torch.float32: {"rtol": 1e-4, "atol": 1e-6}}


def problem(architecture, dtype=torch.float64, **keys):
    recipe = Recipe.from_dict(
        complete_recipe({"architecture": architecture, "expansion": EXPANSION, **KEYS[architecture], **keys})
    )
    generator = torch.Generator().manual_seed(1)
    state = initial_state(recipe, normaliser(D_IN, torch.randn(D_IN, generator=generator) / 10))
    start = state.weights
    if architecture in WITH_ENCODER:
        start = start | {"W_enc": start["W_dec"]}  # one size of pre-activations for all architectures
    weights = {name: weight + torch.randn(weight.shape, generator=generator) / 30 for name, weight in start.items()}
    bias = "b_gate" if architecture == "gated" else "b_enc"
    if architecture in WITH_ENCODER:
        weights[bias] -= 0.15
        weights[bias][SILENT] = -100
    x = torch.randn(ROWS, D_IN, generator=generator) / D_IN**0.5
    x[EMPTY] = weights["b_dec"]
    return recipe, {name: weight.to(DEVICE, dtype) for name, weight in weights.items()}, x.to(DEVICE, dtype)


def control(**others):
    dead = torch.arange(EXPANSION * D_IN, device=DEVICE) % 3 == 0
    return Control(**{"penalty": 0.1, "dead": dead, "smallest": 0.2, "density": 0.01, "products": "float32"} | others)


# In Triton's interpreter a case takes seconds. `make test` has every kernel at every precision; test-long all of the matrix.
SHORT = {("relu", None, torch.float64), ("topk", 8.0, torch.float64), ("matryoshka", 8.0, torch.float32)}
SHORT |= {("gated", 8.0, torch.float64), ("jumprelu", 8.0, torch.float32)}
SHORT |= {("topk", 40), ("gated", 7)}
SHORT |= {("relu",), ("jumprelu",), ("matryoshka",), ("relu", 0.01), (8, torch.float32), (400, torch.float64)}


def cases(*choices):
    """All combinations of the choices; those that are not in SHORT are long."""
    combinations = itertools.product(*choices)
    return [pytest.param(*each, marks=() if each in SHORT else pytest.mark.long) for each in combinations]


@pytest.mark.parametrize(
    ("architecture", "entry_capacity", "dtype"),
    [each for each in cases(WITH_ENCODER, [None, 8.0], EXACT) if each.values[1:] != (None, torch.float32)],
)
def test_equals_autograd(architecture, entry_capacity, dtype):
    recipe, weights, x = problem(architecture, dtype)
    module, asked = (
        module_of(recipe.architecture),
        control(entry_capacity=entry_capacity, dead_capacity=40),
    )  # 32 are dead
    expected, told = reference.gradients(module, weights, x, recipe, asked)
    found, measured = gpu.gradients(module, weights, x, recipe, asked)
    assert set(found) == set(expected) == set(weights)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **EXACT[dtype])
        assert expected[name].abs().max() > 0, f"{name} is not tested"
    told, measured = told.plain(), measured.plain()
    for value in ("loss", "reconstruction", "sparsity", "l0"):
        assert getattr(measured, value) == pytest.approx(getattr(told, value), rel=EXACT[dtype]["rtol"])
    assert torch.equal(measured.fired, told.fired) and not told.fired[SILENT] and told.fired.any()


def test_an_annealed_penalty_equals_autograd():
    """In buffers with room that stays unused, too, where the slope of a power is infinite."""
    recipe, weights, x = problem("relu", torch.float64)
    asked = control(entry_capacity=8.0, power=0.3)
    expected, told = reference.gradients(module_of("relu"), weights, x, recipe, asked)
    found, measured = gpu.gradients(module_of("relu"), weights, x, recipe, asked)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-13)
    assert measured.plain().sparsity == pytest.approx(told.plain().sparsity, rel=1e-11)


def test_matching_pursuit_is_in_full_precision_at_any_density():
    recipe, weights, x = problem("matching_pursuit", torch.float32)
    module, asked = module_of("matching_pursuit"), control(products="bfloat16", density=0.9)
    expected, told = reference.gradients(module, weights, x, recipe, asked)
    found, measured = gpu.gradients(module, weights, x, recipe, asked)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **EXACT[torch.float32])
    assert measured.plain().l0 == told.plain().l0 > 0


@pytest.mark.parametrize("architecture", cases(WITH_ENCODER))
def test_a_further_loss_equals_autograd_at_any_density(architecture):
    recipe, weights, x = problem(architecture)
    pull, _ = pull_to(x, torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(4)).to(x))
    module = module_of(architecture)
    expected, _ = reference.gradients(module, weights, x, recipe, control(pull=pull))
    for asked in (control(), control(pull=pull, density=0.9)):
        found, _ = gpu.gradients(module, weights, x, recipe, asked)
        far = [name for name in expected if not torch.allclose(found[name], expected[name], rtol=1e-11, atol=1e-13)]
        assert bool(far) is (asked.pull is None)


@pytest.mark.parametrize(("architecture", "d_out"), cases(WITH_ENCODER, [7, 40]))
def test_a_transcoder_equals_autograd(architecture, d_out):
    """With a skip connection, and fewer or more output than input dimensions."""
    recipe, weights, x = problem(architecture)
    generator = torch.Generator().manual_seed(3)
    shapes = {"W_dec": (len(weights["W_enc"]), d_out), "b_dec": (d_out,), "W_skip": (d_out, D_IN)}
    weights |= {name: torch.randn(shape, generator=generator).to(x) / 10 for name, shape in shapes.items()}
    asked = control(target=torch.randn(ROWS, d_out, generator=generator).to(x) / d_out**0.5)
    expected, told = reference.gradients(module_of(architecture), weights, x, recipe, asked)
    found, measured = gpu.gradients(module_of(architecture), weights, x, recipe, asked)
    assert set(found) == set(expected) == set(weights)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **EXACT[torch.float64])
    assert measured.plain().loss == pytest.approx(told.plain().loss, rel=1e-11)


@pytest.mark.parametrize("architecture", cases(["relu", "gated", "jumprelu", "topk", "batch_topk"]))
def test_no_active_latent_is_no_special_case(architecture):
    recipe, weights, x = problem(architecture)
    for name in {"b_enc", "b_gate"} & set(weights):
        weights[name] -= 100
    module = module_of(recipe.architecture)
    for asked in (control(dead=None), control(dead=None, entry_capacity=4.0, smallest=0.0)):
        if architecture == "batch_topk" and asked.entry_capacity:
            continue  # fewer than k x batch candidates: it asks to be waited for
        expected, _ = reference.gradients(module, weights, x, recipe, asked)
        found, measured = gpu.gradients(module, weights, x, recipe, asked)
        assert measured.plain().l0 == 0 and measured.plain().smallest == 0
        for name in expected:
            torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize(
    "architecture, short",
    [
        ("relu", {"entry_capacity": 0.05}),
        pytest.param("batch_topk", {"entry_capacity": 1.0, "smallest": 0.0}, marks=pytest.mark.long),
        ("batch_topk", {"entry_capacity": 8.0, "smallest": 9.0}),  # too few candidates
        pytest.param("topk", {"entry_capacity": 4.0, "dead_capacity": 31}, marks=pytest.mark.long),
    ],
)
def test_too_small_a_buffer_is_a_loss_of_nan(architecture, short):
    recipe, weights, x = problem(architecture)
    _, measured = gpu.gradients(
        module_of(recipe.architecture), weights, x, recipe, control(**{"dead_capacity": 96} | short)
    )
    assert np.isnan(measured.plain().loss)


@pytest.mark.parametrize(("architecture", "density"), cases(["relu", "topk"], [0.01, 1.0]))
def test_bfloat16_products_are_near(architecture, density):
    recipe, weights, x = problem(architecture, torch.float32)
    module = module_of(recipe.architecture)
    expected, _ = reference.gradients(module, weights, x, recipe, control(dead=None))
    found, _ = gpu.gradients(module, weights, x, recipe, control(dead=None, density=density, products="bfloat16"))
    for name in expected:
        assert found[name].dtype == torch.float32
        assert 0 < (found[name] - expected[name]).norm() < 0.1 * expected[name].norm()


@pytest.mark.parametrize(("k", "dtype"), cases([1, 8, 300, 400], EXACT))
def test_largest_are_those_of_a_sort(k, dtype):
    z = torch.from_numpy(rows_of_every_kind()[:12]).to(DEVICE, dtype)
    zeros = torch.zeros(300, device=DEVICE, dtype=dtype)
    eye = torch.eye(300, device=DEVICE, dtype=dtype)
    weights = {"W_enc": eye, "b_enc": zeros, "W_dec": eye, "b_dec": zeros}
    entries = gpu.Step(weights, z, Control(density=0.0), None).largest(k)
    starts = entries.starts.tolist()
    for row in range(len(z)):
        order = np.argsort(-z[row].cpu().numpy(), kind="stable")[:k]  # of equal entries the first
        expected = sorted(order[z[row].cpu().numpy()[order] > 0].tolist())
        assert entries.columns[starts[row] : starts[row + 1]].tolist() == expected
        assert torch.equal(entries.values[starts[row] : starts[row + 1]], z[row, expected])


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_the_backends_update_alike(clip):
    recipe, weights, x = problem("gated", clip=clip)
    weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
    grads, _ = reference.gradients(module_of("gated"), weights, x, recipe, control())
    ours, theirs = (
        [
            {name: copy(each) for name, each in weights.items()}
            for copy in (torch.clone, torch.zeros_like, torch.zeros_like)
        ]
        for _ in range(2)
    )
    for step in (1, 2):
        norm = gpu.update(ours[0], grads, ours[1:], recipe, step, 1e-2)
        assert norm.item() == pytest.approx(
            reference.update(theirs[0], grads, theirs[1:], recipe, step, 1e-2), rel=1e-12
        )
    for one, other in zip(ours, theirs, strict=True):
        for name in weights:
            torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-13)


def test_a_gradient_that_is_not_finite_changes_nothing():
    recipe, weights, x = problem("relu")
    grads, _ = reference.gradients(module_of("relu"), weights, x, recipe, control())
    grads["W_enc"][3, 2] = float("nan")
    moments = [{name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2)]
    before = {name: weight.clone() for name, weight in weights.items()}
    assert not np.isfinite(gpu.update(weights, grads, moments, recipe, 1, 1e-3).item())
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert not any(each.any() for part in moments for each in part.values())


def test_every_kernel_compiles_for_a_card(tmp_path):
    """What the interpreter lets pass the compiler may not; it needs no card."""
    folder = Path(__file__).parent
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": f"{folder.parent}:{env.get('PYTHONPATH', '')}"}
    done = subprocess.run([sys.executable, folder / "compile_kernels.py"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = {
        name
        for name, each in vars(gpu.loops).items()
        if hasattr(each, "fn") and name not in ("pre_activations", "decoder_rows")
    }
    assert {line.split()[0] for line in done.stdout.splitlines()} == kernels


@pytest.fixture
def on_gpu_kernels(monkeypatch):
    """The training loop with the GPU's backend, one row of the curve, always the sparse path."""
    monkeypatch.setattr(window, "backend_for", lambda *_: gpu)
    monkeypatch.setattr(window, "MOST_ROWS", 1)
    monkeypatch.setattr(gpu, "DENSE_ABOVE", 1.0)


def trained(folder, store, architecture, batch=8):
    """The state after the 32 rows: of 8 rows a step 4 steps, the first waited for."""
    recipe = recipe_of(architecture, expansion=2, batch=batch)
    paths = run(folder, store, recipe, stop=32, gpu_products="float32")
    return load_tensors(paths["resume"])["state"]


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path, rows=32)


@pytest.mark.parametrize("architecture", [pytest.param("relu", marks=pytest.mark.long), "batch_topk"])
def test_running_ahead_changes_nothing(architecture, store, tmp_path, on_gpu_kernels, monkeypatch):
    """Also not where steps turn out to have had too little room and are done again."""
    ahead = trained(tmp_path / "ahead", store, architecture)
    again = []
    monkeypatch.setattr(window, "ENTRY_CAPACITY", 0.01 if architecture == "relu" else 1.0)
    monkeypatch.setattr(gpu, "FEWEST", 0)
    monkeypatch.setattr(window.logger, "info", lambda text, *_: again.append(text) if "again" in text else None)
    short = trained(tmp_path / "short", store, architecture)
    assert again
    monkeypatch.setattr(gpu, "ASYNCHRONOUS", False)
    waited = trained(tmp_path / "waited", store, architecture)
    assert same(ahead, waited) and same(short, waited)
    assert all(isinstance(ahead[name], float) for name in ("penalty", "smallest", "density"))


def test_interrupted_between_two_looks_it_ends_with_the_same_state(store, tmp_path, on_gpu_kernels, monkeypatch):
    whole = trained(tmp_path / "whole", store, "topk")
    original, steps = window.Window._step, [0]

    def told_to_stop(self, x, interruption):
        original(self, x, interruption)
        steps[0] += 1
        if steps[0] == 2:
            interruption.told = 15

    monkeypatch.setattr(window.Window, "_step", told_to_stop)
    with pytest.raises(SystemExit) as stopped:
        trained(tmp_path / "parts", store, "topk")
    assert stopped.value.code == EXIT_CODE
    assert same(trained(tmp_path / "parts", store, "topk"), whole)


def test_it_trains_as_the_cpu_does(store, tmp_path, on_gpu_kernels, monkeypatch):
    """The first step's gradient, and what is measured on the way to the last one.

    Weights are not compared: Adam divides a gradient by its own size, so a weight whose gradient is zero but for rounding
    goes a whole step either way. The loss does not notice: its slope there is that gradient.
    """
    tolerance = EXACT[torch.float32]["rtol"]  # the kernels' own, for one step
    states, curves = {}, {}
    for place in ("gpu", "cpu"):
        states[place] = {batch: trained(tmp_path / f"{place}{batch}", store, "relu", batch) for batch in (32, 8)}
        curves[place] = parquet.read_table(tmp_path / f"{place}8" / "a.parquet").to_pylist()
        monkeypatch.undo()
        monkeypatch.setattr(window, "MOST_ROWS", 1)
    ours, true = states["gpu"], states["cpu"]
    for moment in ("first", "second"):  # after one step: the gradient, and its square
        for name, expected in true[32][moment].items():
            assert (ours[32][moment][name] - expected).norm() <= tolerance * expected.norm(), name
            assert expected.any()
    assert ours[8]["penalty"] == pytest.approx(true[8]["penalty"], rel=1e-5)
    assert len(curves["gpu"]) == len(curves["cpu"]) == 1
    assert curves["gpu"][0] == pytest.approx(curves["cpu"][0], rel=tolerance)


def test_what_is_not_finite_stops_with_the_step_and_the_state_before_it(store, tmp_path, on_gpu_kernels):
    zarr.open_array(store, mode="r+")[3 * 8 + 5, 2] = float("nan")
    with pytest.raises(AtlasError, match=r"gradient norm nan at step 4 \(token 24\)") as error:
        trained(tmp_path, store, "topk")
    state = load_tensors(str(error.value).rsplit(" ", 1)[1])["state"]["state"]
    assert state["steps"] == 3
    assert all(weight.isfinite().all() for weight in state["weights"].values())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_host_does_not_wait_inside_a_step(architecture):
    recipe, weights, x = problem(architecture, torch.float32)
    moments = [{name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2)]
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            asked = control(entry_capacity=8.0, dead_capacity=40, products="bfloat16")
            grads, _ = gpu.gradients(module_of(architecture), weights, x, recipe, asked)
            gpu.update(weights, grads, moments, recipe, 1, 1e-4)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_job_on_the_card_gives_the_same_bits_twice_and_learns(architecture, tmp_path):
    store = make_store(tmp_path, rows=8192)
    one, two = (run(tmp_path / name, store, recipe_of(architecture), stop=8192, device="cuda") for name in "ab")
    assert one["checkpoint"].read_bytes() == two["checkpoint"].read_bytes()
    saved = load_checkpoint(one["checkpoint"])
    assert saved["stats"]["reconstruction"] < 0.5
    assert saved["config"]["device"] == torch.cuda.get_device_name()
