"""The last tokens of a run minimise what the model loses: exact gradients, masked tokens, equal bits, the workflow around."""

import os
import shutil
import signal
import time
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from random_saes import WITH_ENCODER
from test_gradients import KEYS

import sae_atlas
from models import random_model
from sae_atlas.activations.store import Normaliser
from sae_atlas.config.read import complete_config, complete_recipe
from sae_atlas.from_array import train_sae
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json
from sae_atlas.io.provenance import make_record, recording
from sae_atlas.kernels import cpu, reference
from sae_atlas.kernels.measured import Control
from sae_atlas.kernels.threads import use_threads
from sae_atlas.metrics.held_out import patched_site, replace_site
from sae_atlas.plan.shape import Shape
from sae_atlas.plan.work import count
from sae_atlas.saes import architecture as module_of
from sae_atlas.saes.architectures import ARCHITECTURES
from sae_atlas.saes.checkpoint import load_checkpoint
from sae_atlas.sites.hooks import capture
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.job import as_arguments
from sae_atlas.training import window
from sae_atlas.training.finetune import _Passes, finetune
from sae_atlas.training.interruption import EXIT_CODE
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.state import State, initial_state
from workflow import kinds, planned, small, snakemake

D, LAYER, CONTEXTS, CONTEXT = 32, 1, 6, 16
SITES = {
    "resid_post": {"site": "resid_post"},
    "mlp_out": {"site": "mlp_out"},
    "transcoder": {"site": "mlp_in", "target": "mlp_out"},
}

# --- the gradient ------------------------------------------------------------------------------------------------------


def passes(sites: str, outlier_norm: float = 10.0, dtype=torch.float64):
    """A model's passes over contexts whose first positions, and some later ones, are masked; the raw rows; tokens and mask."""
    model = random_model("gpt_neox").to(dtype)
    model.get_output_embeddings().weight.mul_(20)  # predictions that an error changes by more than float32 rounds
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, 64, (CONTEXTS, CONTEXT), generator=generator)
    mask = torch.rand(CONTEXTS, CONTEXT, generator=generator) > 0.1
    mask[:, 0] = False
    found = _Passes(model, SITES[sites], LAYER, 4, outlier_norm)
    return found, found.clean(tokens, mask), tokens, mask


def state_for(rows: torch.Tensor, recipe: Recipe, transcoder: bool) -> State:
    """A state with the normalisers of these rows, moved off its symmetric start; in float64."""

    def normaliser(values):
        mean = values.mean(0)
        scale = float((values - mean).square().sum(1).mean() ** -0.5)
        return Normaliser(mean.numpy(), scale, mean.numpy())

    x, y = rows[:, :D], rows[:, D:]
    state = initial_state(recipe, normaliser(x), target=normaliser(y) if transcoder else None)
    generator = torch.Generator().manual_seed(1)
    state.weights = {
        name: (weight + torch.randn(weight.shape, generator=generator) / 30).double()
        for name, weight in state.weights.items()
    }
    return state


def kl_of(found: _Passes, tokens: torch.Tensor, y_hat: torch.Tensor) -> torch.Tensor:
    """KL(clean || patched) by hand, mean over the predictions at rebuilt tokens; y_hat [tokens, d_out], raw."""
    model, inside = found.model, found.inside
    clean = model(tokens).logits.log_softmax(-1)
    y, stream = (torch.cat([getattr(part, name) for part in found.parts]) for name in ("y", "stream"))
    replaced = y.index_put((inside,), y_hat)
    with replace_site(model, patched_site(found.sites), LAYER, stream, replaced):
        patched = model(tokens, use_cache=False).logits.log_softmax(-1)
    return (clean.exp() * (clean - patched)).sum(-1)[:, :-1][inside[:, :-1]].mean()


@pytest.mark.parametrize("backend", [cpu, reference])
@pytest.mark.parametrize(
    ("architecture", "sites"),
    [each for each in product(ARCHITECTURES, SITES) if each[1] != "transcoder" or each[0] in WITH_ENCODER],
)
def test_the_step_is_that_of_squared_error_and_weighted_kl(architecture, backend, sites):
    transcoder = sites == "transcoder"
    found, rows, tokens, _ = passes(sites)
    recipe = Recipe.from_dict(
        complete_recipe({"architecture": architecture, "expansion": 4, "skip": transcoder, **KEYS[architecture]})
    )
    state = state_for(rows, recipe, transcoder)
    x, target = state.scaled(rows.double())
    scale, mean = (state.target_scale, state.target_mean) if transcoder else (state.scale, state.mean)
    alone = Control(0.1, target, torch.arange(4 * D) < 30, smallest=0.1, density=0.0)
    use_threads(1)

    def pull(error):
        return found.pull(error, scale)

    module, control = module_of(architecture), Control(**vars(alone) | {"pull": pull})
    gradients, _ = backend.gradients(module, state.weights, x, recipe, control)
    leaves = {name: weight.clone().requires_grad_() for name, weight in state.weights.items()}
    loss = module.loss(leaves, x, recipe, alone)
    kl = kl_of(found, tokens, loss.rebuilt / scale + mean)
    of_error, of_kl = (
        torch.autograd.grad(each, loss.rebuilt, retain_graph=True)[0] for each in (loss.reconstruction, kl)
    )
    weight = of_error.norm() / of_kl.norm()
    assert (found.kl.item(), found.weight.item()) == pytest.approx((kl.item(), weight.item()), rel=1e-5)
    plain = torch.autograd.grad(loss.total, [*leaves.values()], retain_graph=True)
    both = torch.autograd.grad(loss.total + weight * kl, [*leaves.values()])
    differ = []
    for name, expected, without in zip(leaves, both, plain, strict=True):
        torch.testing.assert_close(gradients[name], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        differ.append(float((expected - without).abs().max()))
    assert max(differ) > 0.01


def test_masked_positions_and_outliers_keep_their_own_activations_and_have_no_loss():
    found, rows, tokens, mask = passes("resid_post", outlier_norm=1.2)
    y = torch.cat([part.y for part in found.parts])
    norms = y.norm(dim=-1)
    assert (
        torch.equal(found.inside, mask & (norms <= 1.2 * np.median(norms[mask].numpy())))
        and (mask & ~found.inside).any()
    )
    assert torch.equal(rows, y[found.inside].float())
    with capture(found.model, "resid_pre", [LAYER + 1], stop=False) as read:
        found.contexts_per_batch = CONTEXTS
        found.clean(tokens, mask)
        gradient = found.pull(torch.ones_like(rows), 1.0)
    patched = read[LAYER + 1]
    assert torch.equal(patched[~found.inside], y[~found.inside])
    torch.testing.assert_close(patched[found.inside], y[found.inside] + 1)
    assert gradient.shape == rows.shape
    last = found.inside.clone()
    last[:, :-1] = False  # what the last token predicts is not in the text
    assert (gradient[last[found.inside]] == 0).all() and (gradient[~last[found.inside]] != 0).any(1).all()


def test_a_perfect_reconstruction_has_no_gradient():
    found, rows, _, _ = passes("resid_post", dtype=torch.float32)
    assert found.pull(torch.zeros_like(rows), 1.0).abs().max() < 1e-6


# --- through the workflow ----------------------------------------------------------------------------------------------

TUNED = {"finetune": {"loss": "kl", "tokens": "2k"}}
SIZES = {"expansion": 4, "k": 4, "batch": 128, "warmup": 2, "learning_rate": 3e-3}
PLAIN = {"architecture": "batch_topk", **SIZES}
CONFIG = small(
    **{
        "activations.layers": [1],
        "training": {"tokens": "8k", "snapshots": ["4k"]},
        "corpus.tokens": "8k",
        "recipes": {"plain": PLAIN, "tuned": PLAIN | TUNED},
        "evaluation": {"tokens": "2k", "patched_tokens": "2k"},
    }
)
CELL = {"recipe": "tuned", "layer": 1}
FINAL = "results/checkpoints/tuned/sae_layer01_8k.pt"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    snakemake(folder, CONFIG)
    return folder


def test_it_lowers_the_held_out_kl_at_equal_tokens(atlas):
    found = pd.read_parquet(atlas / "results/metrics.parquet").query("snapshot == 'final'")
    kl = found[found.metric == "kl"].set_index("recipe")
    assert kl.value["tuned"] < 0.97 * kl.value["plain"]
    steps = {
        name: sae_atlas.load_sae(atlas / f"results/checkpoints/{name}/sae_layer01_8k.pt") for name in ("plain", "tuned")
    }
    plain, tuned = (steps[name].stats["trained_tokens"] for name in ("plain", "tuned"))
    assert abs(tuned - plain) <= 2 * 128 + 32  # two last batches that are not whole, and a context
    assert not torch.equal(steps["plain"].W_dec, steps["tuned"].W_dec)


def test_curve_record_and_card_say_it(atlas):
    curve = pd.read_parquet(atlas / "results/curves/tuned/layer01_8k.parquet")
    assert (curve.kl > 0).all() and curve.tokens.iloc[-1] == 8000 and curve.tokens.iloc[0] > 6000
    assert (curve.kl_weight > 0).all()
    record = read_json(atlas / FINAL.replace(".pt", ".json"))["record"]
    assert record["stage"] == "finetune_sae" and record["settings"]["recipe"]["finetune"] == {
        "loss": "kl",
        "tokens": 2000,
    }
    assert sae_atlas.load_sae(atlas / FINAL).config["recipe"]["finetune"]["tokens"] == 2000
    cards = {path.parent.name: path.read_text() for path in atlas.glob("models/sae/*/model_card.md")}
    said = {name: "- Fine-tuning: the last 2,000 tokens minimised KL" in text for name, text in cards.items()}
    assert said == {name: name.endswith("tuned") for name in cards} and len(said) == 2


def test_only_what_depends_on_the_tokens_is_made_again(atlas):
    assert planned(atlas, CONFIG) == []
    assert planned(atlas, CONFIG, "--forcerun", "finetune_sae")[0].startswith("activations: window to 8k")
    other = small(**{**CONFIG, "recipes": {"plain": PLAIN, "tuned": PLAIN | {"finetune": {"tokens": "1k"}}}})
    jobs = planned(atlas, other)
    made = [job for job in jobs if job.split(":")[0] in ("activations", "store", "train", "finetune")]
    assert made == [
        "activations: window to 8k, layers 01-01",
        "finetune: tuned, layer 01, to 8k tokens",
        "store: layer 01, window to 8k",
        "train: tuned, layer 01, to 7k tokens",
    ]
    assert kinds(planned(atlas, {**CONFIG, "recipes": {"plain": PLAIN, "tuned": PLAIN}}))["train"] == 1  # without it


def test_it_needs_no_snapshots_and_follows_any_start(tmp_path):
    on = {"start_from": {"recipe": "tuned"}}
    alone = {**CONFIG, "training": {"tokens": "8k"}, "recipes": {"tuned": PLAIN | TUNED, "on": PLAIN | TUNED | on}}
    branch = {"start_from": {"recipe": "plain", "snapshot": "4k"}}
    both = {**CONFIG, "recipes": {"plain": PLAIN, "on": PLAIN | TUNED | branch}}
    made = [[job for job in planned(tmp_path, each) if job[:5] in ("train", "finet")] for each in (alone, both)]
    assert made[0] == [
        f"{job}: {recipe}, layer 01, to {snapshot} tokens"
        for job, snapshot in (("finetune", "8k"), ("train", "6k"))
        for recipe in ("on", "tuned")
    ]
    assert made[1] == [
        "finetune: on, layer 01, to 8k tokens",
        "train: on, layer 01, to 6k tokens",
        "train: plain, layer 01, to 4k tokens",
        "train: plain, layer 01, to 8k tokens",
    ]


def test_identities_are_those_of_the_recipe_without_it_up_to_the_last_window():
    grid = Atlas(complete_config(CONFIG, "config.yaml"))
    assert "finetune" not in grid.config["recipes"]["plain"]
    first = {recipe: grid.identity("train_sae", recipe=recipe, layer=1, snapshot="4k") for recipe in ("plain", "tuned")}
    assert first["plain"] == first["tuned"]
    assert grid.chain("tuned") == ["4k", "6k", "8k"] and grid.chain("plain") == grid.snapshots == ["4k", "8k"]
    assert [grid.window(each) for each in grid.chain("tuned")] == [(0, 4000), (4000, 6000), (4000, 8000)]
    assert grid.settings("train_sae", **CELL, snapshot="6k")["store_stop"] == 8000
    assert "store_stop" not in grid.settings("train_sae", **CELL, snapshot="4k")
    work = {each.rule: each for each in count(grid, Shape(4, 32, 300, 12 * 32**2, 60_000, 4))}
    assert (work["finetune_sae"].jobs, work["finetune_sae"].tokens) == (1, 2000)
    assert work["train_sae"].tokens == 8000 + 6000 and work["finetune_sae"].memory > work["train_sae"].memory


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """An atlas up to the fine-tuning, with the resume file that it begins at."""
    folder = tmp_path_factory.mktemp("resumed")
    snakemake(folder, CONFIG, "--notemp", "results/checkpoints/tuned/sae_layer01_6k.resume.pt")
    return folder


def tune(atlas, folder, **more):
    grid = Atlas(complete_config(CONFIG, "config.yaml"))
    settings = grid.settings("finetune_sae", **CELL, snapshot="8k")
    results, paths = atlas / "results", {"checkpoint": folder / "a.pt", "curve": folder / "a.parquet"}
    folder.mkdir(exist_ok=True)
    with recording(make_record("finetune_sae", settings, "1", {})):
        finetune(
            results / "base_model/provenance.json",
            next(results.glob("corpus/*.zarr")),
            results / "checkpoints/tuned/sae_layer01_6k.resume.pt",
            **as_arguments(settings), **paths, device="cpu", **more,
        )  # fmt: skip
    return paths


def test_any_number_of_threads_gives_the_same_bytes_and_the_workflows(resumed, atlas, tmp_path):
    one, two = (tune(resumed, tmp_path / str(threads), threads=threads) for threads in (1, 2))
    for name in one:
        assert one[name].read_bytes() == two[name].read_bytes()
    made, ours = (sae_atlas.load_sae(path) for path in (atlas / FINAL, one["checkpoint"]))
    assert torch.equal(made.W_dec, ours.W_dec) and torch.equal(made.threshold, ours.threshold)


def test_stopped_and_gone_on_it_ends_with_the_same_bits(resumed, tmp_path, monkeypatch):
    whole = tune(resumed, tmp_path / "whole")
    original, left = window.Window._step, [5]

    def told_to_stop(self, rows, interruption):
        original(self, rows, interruption)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGTERM)
            while interruption.told is None:
                time.sleep(0.001)

    monkeypatch.setattr(window.Window, "_step", told_to_stop)
    with pytest.raises(SystemExit) as stopped:
        tune(resumed, tmp_path / "parts")
    assert stopped.value.code == EXIT_CODE and left == [0]
    parts = tune(resumed, tmp_path / "parts")
    assert whole["curve"].read_bytes() == parts["curve"].read_bytes()
    one, other = (load_checkpoint(each["checkpoint"]) for each in (whole, parts))
    assert one["stats"] == other["stats"]
    assert all(torch.equal(tensor, other["model_state"][name]) for name, tensor in one["model_state"].items())
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["a.parquet", "a.pt"]


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"finetune": {"tokens": "4k"}},
            "recipes.tuned.finetune.tokens: 4000 does not fit into the last window of 4000",
        ),
        ({"finetune": {"tokens": "3900"}}, "and leave a batch (128) to the training before"),
        ({"finetune": {"tokens": 100}}, "write at least 128 (a batch or a context)"),
        ({"finetune": {"tokens": 0}}, "recipes.tuned.finetune.tokens: 0 does not fit; write a whole number from 1"),
        ({"finetune": {}}, "recipes.tuned.finetune.tokens: missing"),
        ({"finetune": {"tokens": "2k", "loss": "ce"}}, "recipes.tuned.finetune.loss: 'ce' is not allowed"),
        ({"finetune": True}, "recipes.tuned.finetune: True does not fit; it has the keys `loss`, `tokens`"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, words):
    with pytest.raises(AtlasError) as error:
        complete_config({**CONFIG, "recipes": {"tuned": PLAIN | changes}}, "config.yaml")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_it_needs_a_model_that_trains_and_predicts_the_next_token(tmp_path):
    published = {"architecture": "topk", "k": 4, "pretrained": {"source": "hub", "id": "a/b", "format": "sparsify"}}
    with pytest.raises(AtlasError, match=r"recipes.tuned.finetune: does nothing with `pretrained`"):
        complete_config({**CONFIG, "recipes": {"tuned": published | TUNED}}, "config.yaml")
    shutil.copy(__file__, tmp_path / "model.pt")
    itself = {"name": "characters", "source": "restoration", "path": str(tmp_path / "model.pt")}
    with pytest.raises(AtlasError, match=r"recipes.tuned.finetune: characters predicts the tokens that it reads"):
        complete_config({**CONFIG, "base_model": itself}, "config.yaml")
    with pytest.raises(AtlasError, match="finetune: an array has no model"):
        train_sae(torch.randn(512, 4).numpy(), tmp_path, **PLAIN, **TUNED)
