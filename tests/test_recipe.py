"""Recipes: what a config says is what is used, and what would do nothing is an error."""

from dataclasses import asdict

import pytest

from sae_atlas.config.read import complete_recipe
from sae_atlas.config.recipes import PRESETS
from sae_atlas.io.errors import AtlasError
from sae_atlas.saes.architectures import ARCHITECTURES
from sae_atlas.training.recipe import L1, Recipe, canonical_lambda


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("preset", PRESETS)
def test_plain_values_give_the_recipe_back(architecture, preset):
    recipe = complete_recipe({"architecture": architecture, "preset": preset})
    assert complete_recipe(recipe) == recipe
    found = asdict(Recipe.from_dict(recipe))
    if "l1" in recipe:
        recipe["l1"] = {"anneal_to": None} | recipe["l1"]  # absent unless it is given
    assert found.items() >= recipe.items()


def test_a_preset_sets_what_the_recipe_does_not():
    quick = Recipe.from_dict(complete_recipe({"architecture": "relu", "preset": "quick", "batch": 99}))
    assert quick.batch == 99
    assert quick.learning_rate == PRESETS["quick"]["learning_rate"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"expantion": 8}, "recipes.a.expantion: no such key; did you mean `expansion`?"),
        ({"k": 8}, "recipes.a.k: does nothing with architecture `relu`; remove it"),
        ({"batch": 0}, "recipes.a.batch: 0 does not fit"),
        ({"batch": "many"}, "recipes.a.batch: 'many' does not fit"),
        ({"batch": 1.5}, "recipes.a.batch: 1.5 does not fit"),
        ({"decay": 2}, "recipes.a.decay: 2 does not fit"),
        ({"adam_betas": [0.9]}, "recipes.a.adam_betas: [0.9] does not fit"),
        ({"adam_betas": [0.9, 1.0]}, "recipes.a.adam_betas"),
        ({"l1": 3}, "recipes.a.l1: 3 does not fit"),
        ({"l1": {"anneal_to": 1}}, "recipes.a.l1.anneal_to: 1 does not fit"),
        (
            {"architecture": "gated", "l1": {"anneal_to": 0.5}},
            "recipes.a.l1.anneal_to: does nothing with gated; remove it",
        ),
        ({"l1": {"coeficient": 3}}, "recipes.a.l1.coeficient: no such key; did you mean `coefficient`?"),
        ({"l1": {"convention": "sum"}}, "recipes.a.l1.convention: 'sum' is not allowed"),
        ({"l1": {"target_l0": -1}}, "recipes.a.l1.target_l0: -1 does not fit"),
        ({"learning_rate": "inf"}, "recipes.a.learning_rate: 'inf' does not fit"),
        ({"dead_after": "9999999999B"}, "recipes.a.dead_after: '9999999999B' does not fit"),
        ({"learning_rate": float("nan")}, "recipes.a.learning_rate: nan does not fit"),
        ({"architecture": "reul"}, "recipes.a.architecture: 'reul' is not allowed; did you mean `relu`?"),
        ({"preset": "fast"}, "recipes.a.preset: 'fast' is not allowed; valid are `quick`, `standard`, `full`"),
    ],
)
def test_what_is_wrong_is_named(values, problem):
    with pytest.raises(AtlasError) as error:
        complete_recipe({"architecture": "relu", **values}, "recipes.a")
    assert problem in str(error.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(AtlasError) as error:
        complete_recipe({"architecture": "relu", "bach": 3, "k": 3, "clip": 0}, "recipes.a")
    assert len(str(error.value).splitlines()) == 3


def test_numbers_as_yaml_gives_them():
    recipe = Recipe.from_dict(complete_recipe({"architecture": "topk", "learning_rate": "3e-4", "dead_after": "10k"}))
    assert (recipe.learning_rate, recipe.dead_after) == (3e-4, 10_000)


def test_lambda_conventions():
    """By hand, d_in 4, d_sae 8, scale 0.5: mean-sum x 4 x 0.5, mean-mean that over 8."""
    found = [canonical_lambda(L1(0.1, convention), 4, 8, 0.5) for convention in ("canonical", "mean-sum", "mean-mean")]
    assert found == pytest.approx([0.1, 0.2, 0.025])


def test_lambda_conversion_keeps_the_loss():
    """The loss as stated, on raw activations, is the canonical one up to a factor, for any error and latents."""
    d_in, d_sae, scale = 6, 12, 0.3
    for error, latents in ((2.0, 5.0), (0.7, 40.0)):  # raw squared error, raw sum of latents
        for convention, mean_over in (("mean-sum", 1), ("mean-mean", d_sae)):
            stated = error / d_in + 0.01 * latents / mean_over
            canonical = canonical_lambda(L1(0.01, convention), d_in, d_sae, scale)
            ours = error * scale**2 + canonical * latents * scale
            assert ours == pytest.approx(stated * d_in * scale**2)
