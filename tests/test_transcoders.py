"""Transcoders: exact gradients, training on pairs, folding, and what a checkpoint of one must hold."""

import numpy as np
import pytest
import torch
from random_saes import WITH_ENCODER
from rounding import decided
from stores import D_IN, D_OUT, activations, make_store, normaliser, targets
from test_gradients import DENSE, KEYS, PATHS, gradients

from sae_atlas.activations.store import open_store
from sae_atlas.config.read import complete_recipe
from sae_atlas.io.errors import AtlasError
from sae_atlas.kernels import cpu, reference
from sae_atlas.kernels.measured import Control
from sae_atlas.kernels.threads import use_threads
from sae_atlas.saes import architecture as module_of
from sae_atlas.saes.checkpoint import check_parts, load_checkpoint, load_tensors
from sae_atlas.saes.parts import pre_activations, reconstruct
from sae_atlas.saes.sae import Sae
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.state import initial_state
from sae_atlas.training.train import train


def problem(architecture, skip, dtype=torch.float64, rows=600):
    """Recipe, weights moved off their start, inputs [rows, D_IN] and targets [rows, D_OUT]."""
    values = {"architecture": architecture, "expansion": 4, "skip": skip, **KEYS[architecture]}
    recipe = Recipe.from_dict(complete_recipe(values))
    generator = torch.Generator().manual_seed(1)
    target = normaliser(D_OUT, torch.randn(D_OUT, generator=generator) / 10)
    state = initial_state(recipe, normaliser(D_IN), target=target)
    weights = {
        name: (weight + torch.randn(weight.shape, generator=generator) / 30).to(dtype)
        for name, weight in state.weights.items()
    }
    weights["W_enc"] *= 2
    x = torch.randn(rows, D_IN, generator=generator).to(dtype) / D_IN**0.5
    return recipe, weights, x, torch.randn(rows, D_OUT, generator=generator).to(dtype) / D_OUT**0.5


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dead", [0, 30])
@pytest.mark.parametrize(("architecture", "density"), [path for path in PATHS if path[0] in WITH_ENCODER])
def test_equals_autograd(architecture, density, dead, skip):
    recipe, weights, x, y = problem(architecture, skip)
    control = Control(0.1, y, torch.arange(4 * D_IN) < dead, smallest=0.1, density=density)
    expected, told = reference.gradients(module_of(architecture), weights, x, recipe, control)
    told, (found, measured) = told.plain(), gradients(recipe, weights, x, control)
    assert set(found) == set(expected) == set(weights) and ("W_skip" in weights) is skip
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)
        assert expected[name].abs().max() > 0, f"{name} is not tested"
    for value in ("loss", "reconstruction", "sparsity", "l0"):
        assert getattr(measured, value) == pytest.approx(getattr(told, value), rel=1e-12)
    assert torch.equal(measured.fired, told.fired)


@pytest.mark.parametrize(("architecture", "density"), [("topk", 0.0), ("jumprelu", DENSE)])
def test_any_number_of_threads_gives_the_same_bits(architecture, density):
    recipe, weights, x, y = problem(architecture, True, torch.float32, rows=2000)
    control = Control(0.1, y, torch.arange(4 * D_IN) < 30, smallest=0.1, density=density)
    one, two = (gradients(recipe, weights, x, control, threads)[0] for threads in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("skip", [False, True])
def test_the_loss_is_that_of_the_formula(skip):
    """TopK by hand: y_hat = f W_dec + b_dec (+ W_skip x), the encoder reads x itself."""
    recipe, weights, x, y = problem("topk", skip)
    z = x @ weights["W_enc"].T + weights["b_enc"]
    kept = z.topk(recipe.k, dim=1)
    latents = torch.zeros_like(z).scatter(1, kept.indices, kept.values.relu())
    y_hat = latents @ weights["W_dec"] + weights["b_dec"] + (x @ weights["W_skip"].T if skip else 0)
    use_threads(1)
    _, measured = cpu.gradients(module_of("topk"), weights, x, recipe, Control(target=y, density=0.0))
    assert measured.reconstruction == pytest.approx((y - y_hat).square().sum(1).mean().item(), rel=1e-12)


def recipe_of(architecture, **keys):
    values = {"architecture": architecture, "expansion": 4, "batch": 64, "learning_rate": 0.01, "warmup": 2}
    defaults = {"relu": {"l1": {"coefficient": 0.02}}, "gated": {"l1": {"coefficient": 0.02}}, "jumprelu": {}}
    defaults["jumprelu"] = {"jumprelu": {"target_l0": 6, "bandwidth": 0.05, "threshold": 0.05}}
    return complete_recipe(values | defaults.get(architecture, {"k": 6}) | keys)


def run(folder, recipe, rows=4096, **keys):
    folder.mkdir(exist_ok=True)
    store = make_store(folder, rows, pairs=True)
    paths = {"checkpoint": folder / "sae.pt", "resume": folder / "resume.pt", "curve": folder / "curve.parquet"}
    train(store, recipe, 0, rows, rows, **paths, device="cpu", **keys)
    return store, paths


def test_a_store_of_pairs_has_two_normalisers(tmp_path):
    store = open_store(make_store(tmp_path, 2048, pairs=True))
    rows = np.concatenate(list(store.batches(64)))
    assert (store.d_in, rows.shape) == (D_IN, (2048, D_IN + D_OUT))
    x, y = rows[:, :D_IN], rows[:, D_IN:]
    np.testing.assert_allclose(y, targets(x), rtol=1e-4, atol=1e-4)  # a row is one token's
    for part, own in ((x, store.input), (y, store.target)):
        scaled = (part.astype(np.float64) - own.mean) * own.scale
        assert np.abs(scaled.mean(axis=0)).max() < 1e-5
        assert np.square(scaled).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", WITH_ENCODER)
def test_folding_changes_nothing_but_the_unit(architecture, skip, tmp_path):
    """On raw inputs the published transcoder gives the raw targets that the scaled one predicts."""
    _, paths = run(tmp_path, recipe_of(architecture, skip=skip))
    sae, state = Sae.load(paths["checkpoint"]), load_tensors(paths["resume"])["state"]
    x = torch.from_numpy(activations(200, seed=5))
    x = x[decided(sae, x)]
    weights, scaled = state["weights"], (x - state["mean"]) * state["scale"]
    control = Control(target=torch.zeros(len(x), D_OUT))
    if architecture in ("batch_topk", "matryoshka"):
        z = pre_activations(weights, scaled, control)
        latents = z * (z > state["smallest"])
    else:
        recipe = Recipe.from_dict(recipe_of(architecture, skip=skip))
        latents = module_of(architecture).loss(weights, scaled, recipe, control).latents
    torch.testing.assert_close(sae.encode(x), latents / state["target_scale"], rtol=1e-4, atol=1e-4)
    y_hat = reconstruct(weights, scaled, latents) / state["target_scale"] + state["target_mean"]
    torch.testing.assert_close(sae(x), y_hat, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", WITH_ENCODER)
def test_it_learns_what_the_mlp_does(architecture, tmp_path):
    _, paths = run(tmp_path, recipe_of(architecture), rows=16_384)
    sae = Sae.load(paths["checkpoint"])
    assert (sae.d_in, sae.d_out, sae.is_transcoder) == (D_IN, D_OUT, True)
    x = torch.from_numpy(activations(2000, seed=5))
    y = torch.from_numpy(targets(x.numpy()))
    assert (y - sae(x)).square().sum() / (y - y.mean(0)).square().sum() < 0.5


def test_a_skip_connection_takes_the_linear_part(tmp_path):
    """Of a target that is linear in the input next to nothing is left for the latents."""
    errors = {}
    for skip in (False, True):
        _, paths = run(tmp_path / str(skip), recipe_of("topk", k=1, skip=skip), rows=16_384)
        sae = Sae.load(paths["checkpoint"])
        x = torch.from_numpy(activations(2000, seed=5))
        y = torch.from_numpy(targets(x.numpy()))
        errors[skip] = ((y - sae(x)).square().sum() / (y - y.mean(0)).square().sum()).item()
    assert errors[True] < 0.8 * errors[False]


def test_interrupted_windows_chain(tmp_path):
    """A second window goes on from the first with the first's normalisers, those of the target, too."""
    store, first = run(tmp_path / "one", recipe_of("topk", skip=True), rows=1024)
    second = make_store(tmp_path, 1024, seed=1, pairs=True)
    paths = {name: tmp_path / f"two.{name}" for name in ("checkpoint", "resume", "curve")}
    train(second, recipe_of("topk", skip=True), 1024, 2048, 2048, **paths, previous=first["resume"], device="cpu")
    one, two = (load_tensors(each["resume"])["state"] for each in (first, paths))
    assert torch.equal(one["target_mean"], two["target_mean"])
    assert one["target_scale"] == two["target_scale"] == pytest.approx(open_store(store).target.scale)
    assert two["steps"] == 2 * one["steps"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda value: value["model_state"].update({"decoder.bias": torch.zeros(D_IN)}), "decoder.bias has shape"),
        (lambda value: value["model_state"].update({"skip.weight": torch.zeros(D_IN, D_OUT)}), "skip.weight has shape"),
        (lambda value: value["config"].update({"d_out": 0}), "lacks d_in"),
        (lambda value: value["config"].pop("d_out"), "b_pre has shape None"),
    ],
)
def test_a_checkpoint_that_is_no_transcoder_is_refused(change, line, tmp_path):
    _, paths = run(tmp_path, recipe_of("topk", skip=True), rows=512)
    value = load_checkpoint(paths["checkpoint"])
    check_parts("sae.pt", value, "Fetch it.")
    change(value)
    with pytest.raises(AtlasError, match=line):
        check_parts("sae.pt", value, "Fetch it.")
