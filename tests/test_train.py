"""Training a window: snapshots chain, interruptions cost nothing, every key counts, what is not finite stops."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
import zarr
from rounding import decided
from stores import D_IN, activations, make_store, normaliser

from sae_atlas.activations.store import open_store
from sae_atlas.config.read import complete_recipe
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.provenance import recording
from sae_atlas.kernels import screen
from sae_atlas.kernels.measured import Control
from sae_atlas.saes import architecture as import_architecture
from sae_atlas.saes.architectures import ARCHITECTURES
from sae_atlas.saes.checkpoint import load_checkpoint, load_tensors
from sae_atlas.saes.parts import pre_activations, reconstruct
from sae_atlas.saes.sae import Sae
from sae_atlas.training import window
from sae_atlas.training.interruption import EXIT_CODE, SAVE_EVERY, Interruption
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.state import initial_state
from sae_atlas.training.train import train

SMALL = {"expansion": 4, "batch": 64, "learning_rate": 0.01, "warmup": 4, "dead_after": 128}
RECIPES = {
    "relu": SMALL | {"sparsity_warmup": 4, "l1": {"coefficient": 0.03, "target_l0": 6}},
    "gated": SMALL | {"sparsity_warmup": 4},
    "topk": SMALL | {"k": 4},
    "batch_topk": SMALL | {"k": 4},
    "matryoshka": SMALL | {"k": 4},
    "matching_pursuit": SMALL | {"k": 4},
    "jumprelu": SMALL | {"sparsity_warmup": 4, "jumprelu": {"target_l0": 3, "bandwidth": 0.1, "threshold": 0.3}},
}


def recipe_of(architecture, **keys):
    return complete_recipe({"architecture": architecture, **RECIPES[architecture], **keys})


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [make_store(folder, seed=seed) for seed in (0, 1)]


def run(folder: Path, store, recipe, previous=None, start=0, stop=1024, total=None, threads=1, name="a", **others):
    paths = {
        key: folder / f"{name}.{end}"
        for key, end in (("checkpoint", "pt"), ("resume", "resume.pt"), ("curve", "parquet"))
    }
    folder.mkdir(exist_ok=True)
    with recording({"identity": f"{name} {recipe}"}):
        train(store, recipe, start, stop, total, **paths, previous=previous, threads=threads, **others)
    return paths


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_learns_and_the_checkpoint_works_on_raw_activations(architecture, tmp_path):
    store = make_store(tmp_path, rows=8192)
    paths = run(tmp_path, store, recipe_of(architecture, decay=0.0), stop=8192)
    sae = Sae.load(paths["checkpoint"])
    x = torch.from_numpy(activations(2000, seed=5))
    error = (x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()
    assert error < 0.5  # the mean alone: 1
    assert sae.stats["trained_tokens"] == 8192
    last = parquet.read_table(paths["curve"]).to_pylist()[-1]
    assert last["tokens"] == 8192
    assert error.item() == pytest.approx(last["reconstruction"], rel=0.35)
    assert (sae.encode(x) > 0).sum(1).float().mean().item() == pytest.approx(last["l0"], rel=0.35)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding_changes_nothing_but_the_unit(architecture, stores, tmp_path):
    """Latents on raw activations are those on scaled ones / scale; reconstructions likewise."""
    paths = run(tmp_path, stores[0], recipe_of(architecture))
    sae, state = Sae.load(paths["checkpoint"]), load_tensors(paths["resume"])["state"]
    x = torch.from_numpy(activations(200, seed=5))
    x = x[decided(sae, x)]
    weights, scaled = state["weights"], (x - state["mean"]) * state["scale"]
    if architecture in ("batch_topk", "matryoshka"):  # training chooses by batch, inference by threshold
        z = pre_activations(weights, scaled, Control())
        latents = z * (z > state["smallest"])
    else:
        recipe = Recipe.from_dict(recipe_of(architecture))
        latents = import_architecture(architecture).loss(weights, scaled, recipe, Control()).latents
    torch.testing.assert_close(sae.encode(x), latents / state["scale"], rtol=1e-4, atol=1e-4)
    rebuilt = reconstruct(weights, scaled, latents) / state["scale"] + state["mean"]
    torch.testing.assert_close(sae(x), rebuilt, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("start", "reached"), [(1e-5, False), (0.1, True)], ids=["far away", "near"])
def test_whether_the_controller_reached_its_target_is_recorded(start, reached, tmp_path):
    """Lambda stays within a factor of 1,000 of its start; from far away that is too little."""
    store = make_store(tmp_path, rows=16_384)
    recipe = recipe_of("relu", l1={"coefficient": start, "target_l0": 6}, decay=0.5)
    paths = run(tmp_path, store, recipe, stop=16_384, total=16_384)
    sae = Sae.load(paths["checkpoint"])
    assert sae.stats["converged"] is reached
    l0 = (sae.encode(torch.from_numpy(activations(4000, seed=5))) > 0).sum(1).float().mean().item()
    assert (abs(l0 / 6 - 1) < 0.1) is reached
    penalty = sae.config["lambda"]
    assert penalty["last"] <= 1000.01 * penalty["canonical"]


def test_batchtopk_threshold_keeps_about_k(tmp_path):
    store = make_store(tmp_path, rows=8192)
    paths = run(tmp_path, store, recipe_of("batch_topk", decay=0.5), stop=8192, total=8192)
    sae = Sae.load(paths["checkpoint"])
    l0 = (sae.encode(torch.from_numpy(activations(4000, seed=5))) > 0).sum(1).float().mean().item()
    assert l0 == pytest.approx(4, rel=0.06)


def test_windows_chain(stores, tmp_path):
    """A second window goes on from the first: steps, dead counters, moments and the first window's normaliser."""
    first = run(tmp_path, stores[0], recipe_of("topk"), name="first")
    second = run(tmp_path, stores[1], recipe_of("topk"), first["resume"], 1024, 2048, 2048, name="second")
    one, two = load_tensors(first["resume"])["state"], load_tensors(second["resume"])["state"]
    assert (one["steps"], two["steps"]) == (16, 32)
    assert torch.equal(one["mean"], two["mean"]) and one["scale"] == two["scale"] != open_store(stores[1]).input.scale
    rates = [row["learning_rate"] for row in parquet.read_table(second["curve"]).to_pylist()]
    assert rates[0] == pytest.approx(0.01) and rates[-1] < rates[-2] < 0.01


@pytest.fixture(params=["whole products", "screened"])
def products(request, monkeypatch):
    """The encoder product as steps of this size have it, and as long vectors have it where few latents are active."""
    if request.param == "screened":
        if not screen.available():
            pytest.skip("this CPU has no int8 products (AVX-512 VNNI)")
        monkeypatch.setattr(screen, "FROM", D_IN)
        monkeypatch.setattr(screen, "BELOW", 0.5)


@pytest.mark.parametrize("architecture", ["relu", "topk"])
def test_any_number_of_threads_gives_the_same_bytes(stores, tmp_path, architecture, products):
    recipe = recipe_of(architecture, batch=600)  # more than one micro-batch
    one, two = (run(tmp_path / str(threads), stores[0], recipe, threads=threads) for threads in (1, 2))
    assert one["checkpoint"].read_bytes() == two["checkpoint"].read_bytes()
    assert one["resume"].read_bytes() == two["resume"].read_bytes()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_interrupted_at_any_step_it_ends_with_the_same_bytes(architecture, stores, tmp_path, monkeypatch, products):
    whole = run(tmp_path / "whole", stores[0], recipe_of(architecture))
    steps = iter([1, 5, 2, 100])
    left = [next(steps)]
    original = window.Window._step

    def told_to_stop(self, rows, interruption):
        original(self, rows, interruption)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGTERM)
            while interruption.told is None:
                time.sleep(0.001)
            left[0] = next(steps)

    monkeypatch.setattr(window.Window, "_step", told_to_stop)
    for _ in range(3):
        with pytest.raises(SystemExit) as stopped:
            run(tmp_path / "parts", stores[0], recipe_of(architecture))
        assert stopped.value.code == EXIT_CODE
    parts = run(tmp_path / "parts", stores[0], recipe_of(architecture))
    for key in ("checkpoint", "resume", "curve"):
        assert whole[key].read_bytes() == parts[key].read_bytes()
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["a.parquet", "a.pt", "a.resume.pt"]


def test_a_process_told_to_stop_ends_with_its_own_code(tmp_path):
    store = make_store(tmp_path, rows=4096)
    script = f"""
import sae_atlas.training.window as window
from pathlib import Path
from test_train import recipe_of, run
step = window.Window._step
def slow(*args):
    import time
    print("step", flush=True)
    time.sleep(0.1)
    step(*args)
window.Window._step = slow
run(Path({str(tmp_path)!r}), {str(store)!r}, recipe_of("topk"), stop=4096)
"""
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout.readline() == b"step\n"
    process.send_signal(signal.SIGTERM)
    process.stdout.close()
    assert process.wait(10) == EXIT_CODE
    assert (tmp_path / ".a.resume.pt.interrupted").is_file()


def test_an_interruption_of_another_job_is_not_used(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(window.Interruption, "check", lambda self, state: self.keep(state()) and exit(EXIT_CODE))
    with pytest.raises(SystemExit):
        run(tmp_path, stores[0], recipe_of("topk"))
    monkeypatch.undo()
    other = run(tmp_path, stores[0], recipe_of("topk", seed=1))
    fresh = run(tmp_path / "fresh", stores[0], recipe_of("topk", seed=1))
    assert other["checkpoint"].read_bytes() == fresh["checkpoint"].read_bytes()


def test_outside_a_job_no_state_is_kept_and_signals_are_the_callers_own(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / ".a.resume.pt.interrupted").write_text("of a job")
    with Interruption(tmp_path / "a.resume.pt") as interruption:
        assert signal.getsignal(signal.SIGTERM) == before and interruption.saved is None
        interruption.last_save -= 2 * SAVE_EVERY
        interruption.check(dict)
    assert (tmp_path / ".a.resume.pt.interrupted").read_text() == "of a job"


def test_it_trains_in_a_thread_of_a_notebook(stores, tmp_path):
    worker = threading.Thread(target=run, args=(tmp_path, stores[0], recipe_of("topk")))
    worker.start()
    worker.join()
    assert (tmp_path / "a.pt").is_file()


def test_what_is_not_finite_stops_with_the_step_and_keeps_the_state_before_it(tmp_path):
    values = activations(1024)
    store = make_store(tmp_path, values=values)
    array = zarr.open_array(store, mode="r+")
    array[3 * 64 + 5, 2] = float("nan")
    with pytest.raises(AtlasError, match=r"gradient norm nan at step 4 \(token 192\)") as error:
        run(tmp_path, store, recipe_of("topk"))
    kept = Path(str(error.value).rsplit(" ", 1)[1])
    state = load_tensors(kept)["state"]["state"]
    assert state["steps"] == 3
    assert all(weight.isfinite().all() for weight in state["weights"].values())
    assert not (tmp_path / "a.pt").exists()


def test_bad_inputs_are_named(stores, tmp_path):
    with pytest.raises(AtlasError, match="1024 rows are less than a batch"):
        run(tmp_path, stores[0], recipe_of("topk", batch=2048))
    first = run(tmp_path, stores[0], recipe_of("topk"), name="first")
    with pytest.raises(AtlasError, match="other sizes"):
        run(tmp_path, stores[0], recipe_of("topk", expansion=2), first["resume"], 1024, 2048)


OTHER = {
    "expansion": 5,
    "seed": 1,
    "batch": 32,
    "learning_rate": 0.011,
    "adam_betas": [0.8, 0.99],
    "warmup": 5,
    "decay": 0.3,
    "clip": 0.05,
    "dead_after": 10_000,
    "sparsity_warmup": 6,
    "k": 5,
    "groups": [0.25, 0.75],
    "l1.coefficient": 0.04,
    "l1.convention": "mean-sum",
    "l1.target_l0": 30.0,
    "auxk.coefficient": 0.5,
    "auxk.latents": 1,
    "jumprelu.target_l0": 6.0,
    "jumprelu.coefficient": 2.0,
    "jumprelu.bandwidth": 0.12,
    "jumprelu.threshold": 0.06,
}


def keys_of(architecture):
    for key, value in recipe_of(architecture).items():
        yield from ([f"{key}.{inner}" for inner in value] if isinstance(value, dict) else [key])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_key_changes_what_is_published(architecture, stores, tmp_path):
    def published(recipe):
        """Weights and statistics (`dead_after` only counts where there is no AuxK)."""
        saved = load_checkpoint(run(tmp_path, stores[0], recipe, total=1024)["checkpoint"])
        return {"weights": saved["model_state"], "stats": saved["stats"]}

    # Dead after a batch of 16, and sparse from the first steps on: some latents always are dead, so that what is done
    # about them shows.
    sparse = {"l1": {"coefficient": 0.3, "target_l0": 6}} if architecture in ("relu", "gated") else {}
    base = recipe_of(architecture, batch=16, dead_after=16, **sparse)
    before = published(base)
    for key in keys_of(architecture):
        if key == "architecture":
            continue
        outer, _, inner = key.partition(".")
        changed = base | {outer: base[outer] | {inner: OTHER[key]} if inner else OTHER[key]}
        assert changed != base
        assert not same(published(changed), before), key


def test_the_curve_has_its_columns_and_at_most_100_rows(stores, tmp_path):
    table = parquet.read_table(run(tmp_path, stores[0], recipe_of("topk", batch=8))["curve"])
    assert 40 <= table.num_rows <= 100
    assert set(table.column_names) == {
        "step", "tokens", "loss", "reconstruction", "sparsity", "l0", "alive", "dead", "lambda", "learning_rate",
        "gradient_norm",
    }  # fmt: skip


def test_d_in_is_the_stores(stores):
    assert open_store(stores[0]).d_in == D_IN


def test_every_layer_starts_from_directions_of_its_own_and_every_seed_too():
    """Else latents that hardly moved would look as if they persisted from layer to layer."""
    recipes = [Recipe.from_dict(recipe_of("topk", seed=seed)) for seed in (0, 1)]
    starts = [initial_state(recipe, normaliser(D_IN), layer).weights["W_dec"] for recipe in recipes for layer in (0, 1)]
    again = initial_state(recipes[0], normaliser(D_IN), 1).weights["W_dec"]
    assert torch.equal(again, starts[1])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(starts, 2))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_encoder_starts_as_the_decoders_transpose_shorter_where_no_threshold_is_tied_to_it(name):
    start = initial_state(Recipe.from_dict(recipe_of(name)), normaliser(D_IN)).weights
    torch.testing.assert_close(start["W_dec"].norm(dim=1), torch.ones(len(start["W_dec"])))
    norm = 1.0 if name == "jumprelu" else 0.3
    assert ("W_enc" in start) == (name != "matching_pursuit")
    if "W_enc" in start:
        torch.testing.assert_close(start["W_enc"], norm * start["W_dec"])
