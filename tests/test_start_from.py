"""Training that begins at the weights of another SAE: exactly these, in any format, by any road through the workflow."""

import shutil

import numpy as np
import pytest
import torch

import sae_atlas
from sae_atlas.activations.store import Normaliser
from sae_atlas.config.read import complete_config, complete_recipe
from sae_atlas.config.start_files import files_of_start
from sae_atlas.from_array import train_sae
from sae_atlas.io.errors import AtlasError
from sae_atlas.kernels.measured import Control
from sae_atlas.publish.formats.load import export
from sae_atlas.saes import architecture, checkpoint
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.start import begin_at
from sae_atlas.training.state import initial_state
from workflow import planned, small, snakemake

D, EXPANSION = 6, 4
RECIPES = {
    "topk": {"architecture": "topk", "k": 3},
    "batch_topk": {"architecture": "batch_topk", "k": 3},
    "relu": {"architecture": "relu"},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
}


def recipe_of(name, **values) -> Recipe:
    return Recipe.from_dict(complete_recipe({**RECIPES[name], "expansion": EXPANSION, **values}))


def normaliser(d, seed):
    generator = np.random.default_rng(seed)
    mean, median = generator.normal(size=(2, d)).astype(np.float32)
    return Normaliser(mean=mean, scale=float(generator.uniform(0.2, 3)), geometric_median=median)


def written(path, name, d_out=None, norms=None, skip=False):
    """A checkpoint of random weights; thresholds where the architecture has them at inference."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    d_sae, is_transcoder = D * EXPANSION, d_out is not None
    W_dec = torch.nn.functional.normalize(random(d_sae, d_out or D))
    W_dec = W_dec if norms is None else W_dec * norms[:, None]
    threshold = random(d_sae).abs() if name in ("batch_topk", "jumprelu", "gated") else None
    W_skip = random(d_out, D) if skip else None
    state = checkpoint.model_state(
        random(d_sae, D), random(d_sae), W_dec, random(d_out or D), threshold, W_skip, is_transcoder
    )
    config = {"recipe": RECIPES[name], "d_in": D, "d_sae": d_sae} | ({"d_out": d_out} if is_transcoder else {})
    checkpoint.save(path, state, config, {})
    return path


def folded(state, name):
    """The checkpoint's tensors of a training state, as train writes them."""
    weights, threshold, module = state.weights, None, architecture(name)
    if name in ("jumprelu", "gated"):
        weights, threshold = module.inference(weights, 0.0)
    if state.target_mean is None:
        return checkpoint.fold(weights, threshold, state.mean, state.scale)
    normalisers = (state.mean, state.scale), (state.target_mean, state.target_scale)
    return checkpoint.fold_transcoder(weights, threshold, *normalisers)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("d_out", [None, 5])
def test_the_first_state_is_the_sae_that_it_begins_at(tmp_path, name, d_out):
    path = written(tmp_path / "sae.pt", name, d_out, skip=d_out is not None)
    recipe = recipe_of(name, **({"skip": True} if d_out else {}))
    target = normaliser(d_out, 2) if d_out else None
    state = begin_at(initial_state(recipe, normaliser(D, 1), 0, target), path, recipe)
    there = checkpoint.load_checkpoint(path)["model_state"]
    if name == "batch_topk":  # its threshold is measured while it trains
        del there["threshold"]
    again = folded(state, name)
    assert set(again) == set(there)
    for tensor in there:
        assert torch.allclose(again[tensor], there[tensor], atol=2e-5), tensor
    assert all(torch.equal(moment, torch.zeros_like(moment)) for moment in state.first.values())
    assert state.steps == 0


def test_decoder_norms_go_to_the_encoder(tmp_path):
    norms = torch.linspace(0.5, 3, D * EXPANSION)
    path = written(tmp_path / "sae.pt", "jumprelu", norms=norms)
    recipe = recipe_of("jumprelu")
    state = begin_at(initial_state(recipe, normaliser(D, 1)), path, recipe)
    assert torch.allclose(state.weights["W_dec"].norm(dim=1), torch.ones(D * EXPANSION))
    before = sae_atlas.load_sae(path)
    after = sae_atlas.saes.sae.Sae(folded(state, "jumprelu"), before.config)
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(3)) * 3
    assert torch.allclose(before(x), after(x), atol=1e-4)
    assert torch.allclose(before.encode(x) * norms, after.encode(x), atol=1e-4)


def test_a_decoder_row_of_zeros_begins_at_a_random_one_and_changes_nothing(tmp_path):
    norms = torch.ones(D * EXPANSION)
    norms[3] = 0
    path = written(tmp_path / "sae.pt", "jumprelu", norms=norms)
    recipe = recipe_of("jumprelu")
    state = begin_at(initial_state(recipe, normaliser(D, 1)), path, recipe)
    assert torch.allclose(state.weights["W_dec"].norm(dim=1), torch.ones(D * EXPANSION))
    before = sae_atlas.load_sae(path)
    after = sae_atlas.saes.sae.Sae(folded(state, "jumprelu"), before.config)
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(3)) * 3
    assert torch.allclose(before(x), after(x), atol=1e-4) and not after.encode(x)[:, 3].any()


def test_a_gated_sae_begins_at_a_relu_sae(tmp_path):
    path = written(tmp_path / "sae.pt", "relu")
    recipe = recipe_of("gated")
    state = begin_at(initial_state(recipe, normaliser(D, 1)), path, recipe)
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(3)) * 3
    scaled = (x - state.mean) * state.scale
    latents = architecture("gated").loss(state.weights, scaled, recipe, Control()).latents
    assert torch.allclose(latents, sae_atlas.load_sae(path).encode(x) * state.scale, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"expansion": 8}, r"its d_sae is 24, start_from of this recipe needs 48"),
        ({}, r"its d_out is 5, start_from of this recipe needs None"),
    ],
)
def test_an_sae_of_another_size_or_kind_is_refused(tmp_path, values, words):
    path = written(tmp_path / "sae.pt", "topk", d_out=None if values else 5)
    recipe = recipe_of("topk", **values)
    with pytest.raises(AtlasError, match=words):
        begin_at(initial_state(recipe, normaliser(D, 1)), path, recipe)


def test_an_array_trains_on_from_an_sae_in_another_format(tmp_path):
    x = np.random.default_rng(0).normal(size=(4096, D)).astype(np.float32)
    recipe = {"architecture": "topk", "k": 3, "expansion": EXPANSION, "batch": 256, "warmup": 0, "decay": 0}
    first = train_sae(x, tmp_path / "first", learning_rate=1e-2, **recipe)
    export(tmp_path / "first" / "sae.pt", "saelens", tmp_path / "saelens")
    on = train_sae(x, tmp_path / "on", learning_rate=1e-9, start_from=str(tmp_path / "saelens"), **recipe)
    assert torch.allclose(on.W_dec, first.W_dec, atol=1e-5)
    assert torch.allclose(on(torch.from_numpy(x)), first(torch.from_numpy(x)), atol=1e-3)
    with pytest.raises(AtlasError, match=r"start_from: an array has no other recipes"):
        train_sae(x, tmp_path / "no", start_from={"recipe": "topk"}, **recipe)


def test_the_files_of_a_start_are_those_that_are_read(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("hyperparams.json", "checkpoints/final.safetensors", "notes.txt", "config.yaml", "config.json"):
        (tmp_path / name).touch()
    for name in ("layer_3.safetensors", "layer3.sae.pt", "sae.pt"):
        (tmp_path / name).touch()
    read = {file.relative_to(tmp_path).as_posix() for file in files_of_start(tmp_path)}
    assert read == {"hyperparams.json", "checkpoints/final.safetensors", "config.json"}
    beside = {
        name: [file.name for file in files_of_start(tmp_path / name)]
        for name in ("layer_3.safetensors", "layer3.sae.pt")
    }
    assert beside == {
        "layer_3.safetensors": ["layer_3.safetensors", "config.yaml"],
        "layer3.sae.pt": ["layer3.sae.pt", "config.json"],
    }
    assert [file.name for file in files_of_start(tmp_path / "sae.pt")] == ["sae.pt"]
    assert files_of_start(tmp_path / "none") == files_of_start(tmp_path / "checkpoints") == []


# --- through the workflow ---------------------------------------------------------------------------------------------

SIZES = {"expansion": 4, "batch": 128, "warmup": 0, "decay": 0}
STILL = {"learning_rate": 1e-9}  # stays where it begins
RELEASE = "models/releases/small-neox-saes-x4-first/README.md"
START = "first/models/releases/small-neox-saes-x4-first"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starts")
    first = small(**{"recipes": {"first": {"architecture": "topk", "k": 4, **SIZES}}, "training": {"tokens": "1k"}})
    (folder / "first").mkdir()
    snakemake(folder / "first", first, RELEASE)
    topk = {"architecture": "topk", "k": 4, **SIZES}
    recipes = {
        "base": topk | {"learning_rate": 1e-2},
        "branch": topk | STILL | {"start_from": {"recipe": "base", "snapshot": "1k"}},
        "upwards": topk | STILL | {"start_from": {"recipe": "upwards", "layer": "previous"}},
        "below": topk | STILL | {"start_from": {"recipe": "base", "layer": 0, "snapshot": "2k"}},
        "release": {"architecture": "batch_topk", "k": 4, **SIZES, **STILL, "start_from": START},
    }
    config = small(**{"recipes": recipes, "training": {"tokens": "3k", "snapshots": ["1k", "2k"]}})
    snakemake(folder, config)
    return folder, config


def decoder(folder, recipe, layer, snapshot):
    return sae_atlas.load_sae(folder / f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.pt").W_dec


def same(one, other):
    return torch.allclose(one, other, atol=1e-5)


def test_a_branch_goes_on_behind_its_snapshot(atlas):
    folder, _ = atlas
    assert not (folder / "results/checkpoints/branch/sae_layer00_1k.pt").exists()
    for layer in (0, 1, 2):
        for snapshot in ("2k", "3k"):
            assert same(decoder(folder, "branch", layer, snapshot), decoder(folder, "base", layer, "1k"))
        assert not same(decoder(folder, "base", layer, "2k"), decoder(folder, "base", layer, "1k"))


def test_every_layer_begins_at_the_one_before(atlas):
    folder, _ = atlas
    for layer in (1, 2):
        assert same(decoder(folder, "upwards", layer, "3k"), decoder(folder, "upwards", 0, "1k"))
        assert same(decoder(folder, "below", layer, "3k"), decoder(folder, "base", 0, "2k"))


def test_a_release_is_begun_at(atlas):
    folder, _ = atlas
    for layer in (0, 1, 2):
        there = sae_atlas.load_sae(folder / START / f"sae_layer{layer:02d}_final.pt")
        assert same(decoder(folder, "release", layer, "3k"), there.W_dec)


def test_it_is_said_where_training_began(atlas):
    folder, _ = atlas
    cards = {card.parent.name: card.read_text() for card in folder.glob("models/sae/*/model_card.md")}
    said = {
        name: next((line for line in text.splitlines() if line.startswith("- Start:")), "")
        for name, text in cards.items()
    }
    assert sum("recipe base, after 1k tokens" in line for line in said.values()) == 3
    assert sum("recipe upwards, layer before this one" in line for line in said.values()) == 3
    assert sum("recipe base, layer 0, after 2k tokens" in line for line in said.values()) == 3
    assert sum("the SAE small-neox-saes-x4-first" in line for line in said.values()) == 3
    assert sum(not line for line in said.values()) == 3


def test_what_was_trained_is_kept_until_its_start_changes(atlas):
    folder, config = atlas
    assert planned(folder, config) == []
    longer = {**config, "training": {"tokens": "4k", "snapshots": ["1k", "2k", "3k"]}}
    trained = [job for job in planned(folder, longer) if job.startswith("train: ")]
    assert len(trained) == 15
    again = shutil.copytree(folder, folder.parent / "again")
    (again / START).rename(again / "elsewhere")  # what was made of it is still there
    assert planned(again, config) == []
    (again / "elsewhere").rename(again / START)
    file = again / START / "sae_layer01_final.pt"
    shutil.copy(again / START / "sae_layer02_final.pt", file)
    jobs = planned(again, config)
    assert sum(job.startswith("start: ") for job in jobs) == 1
    assert sum(job.startswith("train: ") for job in jobs) == 3


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("other", r"recipes.b.start_from.path: other is not there"),
        ({}, "recipes.b.start_from: holds neither of `recipe` and `path`"),
        ({"recipe": "topk", "path": "x"}, "holds both of `recipe` and `path`"),
        ({"path": "x", "layer": 0}, "recipes.b.start_from.layer: does nothing with `path`"),
        (
            {"path": "a{x}/layer{layer}.pt"},
            "recipes.b.start_from.path: 'a{x}/layer{layer}.pt' has a brace that is not {layer}",
        ),
        ({"recipe": "tpk"}, "recipes.b.start_from.recipe: 'tpk' is no recipe here; did you mean `topk`"),
        ({"recipe": "topk"}, "recipes.b.start_from.snapshot: missing"),
        ({"recipe": "topk", "snapshot": "3k"}, "has no earlier snapshot 3k"),
        ({"recipe": "topk", "snapshot": "1k", "layer": 3}, "recipes.b.start_from.layer: no layer 3 among"),
        ({"recipe": "topk", "snapshot": "1k", "layer": "next"}, "start_from.layer: 'next' does not fit"),
        ({"recipe": "b"}, "recipes.b.start_from.layer: a recipe can begin at its own"),
        ({"recipe": "c", "snapshot": "1k"}, "recipes.b.start_from.recipe: b begins at c begins at b, in a circle"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(tmp_path, start, words):
    b = {"architecture": "topk", "k": 4, **SIZES, "start_from": start}
    c = b | {"start_from": {"recipe": "b", "snapshot": "2k"}}
    config = small(**{"recipes.b": b} | ({"recipes.c": c} if "circle" in words else {}))
    if start == "other":
        said = snakemake(tmp_path, config, "--dry-run", check=False).stdout
        assert "Traceback" not in said
    else:
        with pytest.raises(AtlasError) as error:
            complete_config(config, "config.yaml")
        said = str(error.value)
    assert words in said
