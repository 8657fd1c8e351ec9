"""Sweeps: sister runs by name, the curve that they draw, and which latents other seeds find, too."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from drawn import draw_pareto, draw_seeds

from sae_atlas.config.read import complete_config, complete_recipe
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.tables import read_table, write_table
from sae_atlas.metrics.seed_consistency import match_seeds
from sae_atlas.plan.jobs import jobs
from sae_atlas.saes import checkpoint
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.sisters import curves, other_seeds
from workflow import planned, small, snakemake

TOPK = {"architecture": "topk", "expansion": 4, "batch": 128, "warmup": 2, "decay": 0}
L1 = {"architecture": "relu", "expansion": 4, "batch": 128, "l1": {"convention": "mean-sum"}}


def recipes_of(**recipes) -> dict:
    return complete_config(small(recipes=recipes), "config.yaml")["recipes"]


def test_a_sweep_is_a_recipe_for_every_combination():
    found = recipes_of(
        topk=TOPK | {"sweep": {"k": [2, 4], "seed": [0, 1]}}, l1=L1 | {"sweep": {"l1.coefficient": [0.1, "0.2"]}}
    )
    assert {name: (found[name]["k"], found[name]["seed"]) for name in found if name.startswith("topk")} == {
        "topk-k2-seed0": (2, 0),
        "topk-k2-seed1": (2, 1),
        "topk-k4-seed0": (4, 0),
        "topk-k4-seed1": (4, 1),
    }
    assert [found[f"l1-coefficient{value}"]["l1"]["coefficient"] for value in (0.1, 0.2)] == [0.1, 0.2]
    assert all(found[f"l1-coefficient{value}"]["l1"]["convention"] == "mean-sum" for value in (0.1, 0.2))
    by_hand = recipes_of(**{"topk-k4-seed1": TOPK | {"k": 4, "seed": 1}})
    assert found["topk-k4-seed1"] == by_hand["topk-k4-seed1"]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (TOPK | {"sweep": {"kk": [1]}}, "recipes.x.sweep.kk: no such key of a recipe; did you mean `k`"),
        (TOPK | {"sweep": {"k": 3}}, "recipes.x.sweep.k: 3 does not fit; write a list of values"),
        (TOPK | {"sweep": {"k": []}}, "recipes.x.sweep.k: [] does not fit"),
        (TOPK | {"sweep": {"k": [3, 3]}}, "recipes.x.sweep.k: holds a value twice"),
        (TOPK | {"k": 4, "sweep": {"k": [3]}}, "recipes.x.sweep.k: the recipe gives k, too; remove it there"),
        (
            TOPK | {"sweep": {"adam_betas": [[0.9, 0.99]]}},
            "recipes.x.sweep.adam_betas: recipes are named by the values",
        ),
        (TOPK | {"sweep": {}}, "recipes.x.sweep: {} does not fit"),
        (TOPK | {"sweep": {"k": [1, 2], "seed": list(range(501))}}, "recipes.x.sweep: makes 1,002 recipes"),
        (TOPK | {"sweep": {"k": [0]}}, "recipes.x-k0.k: 0 does not fit; write a whole number from 1"),
        (L1 | {"sweep": {"k": [4]}}, "recipes.x-k4.k: does nothing with architecture `relu`"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(recipe, words):
    with pytest.raises(AtlasError) as error:
        recipes_of(x=recipe)
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_sweep_does_not_hide_a_recipe():
    with pytest.raises(AtlasError, match=r"recipes.x-k4: is made by a sweep, too; rename one"):
        recipes_of(**{"x-k4": TOPK | {"k": 4}, "x": TOPK | {"sweep": {"k": [4]}}})


def test_one_recipe_alone_has_no_sweep():
    with pytest.raises(AtlasError, match=r"recipe.sweep: only the recipes of a config have one"):
        complete_recipe(TOPK | {"sweep": {"k": [4]}})


def atlas_of(**recipes) -> Atlas:
    return Atlas(complete_config(small(recipes=recipes), "config.yaml"))


def test_sisters_are_told_by_what_they_differ_in():
    atlas = atlas_of(
        topk=TOPK | {"sweep": {"k": [2, 4], "seed": [0, 1]}},
        wide=TOPK | {"k": 2, "expansion": 8},
        **{"l1-weak": L1, "l1-strong": L1 | {"l1": {"coefficient": 3, "convention": "mean-sum"}}},
    )
    assert other_seeds(atlas, "topk-k2-seed0") == ["topk-k2-seed1"]
    assert other_seeds(atlas, "wide") == other_seeds(atlas, "l1-weak") == []
    assert curves(atlas) == {
        "topk": [["topk-k2-seed0", "topk-k2-seed1"], ["topk-k4-seed0", "topk-k4-seed1"]],
        "l1": [["l1-weak"], ["l1-strong"]],
    }
    counted = jobs(atlas)
    assert counted["match_seeds"] == counted["plot_seed_consistency"]
    assert sorted(counted["match_seeds"]) == [f"topk-k{k}-seed{seed}" for k in (2, 4) for seed in (0, 1)]


def test_an_atlas_of_one_sparsity_keeps_the_identity_of_its_figure():
    assert "curves" not in atlas_of(topk=TOPK).settings("plot_pareto", recipe="topk")


# --- seed consistency -------------------------------------------------------------------------------------------------

D, LATENTS = 16, 60


def written(folder, name, rows, density):
    """A checkpoint whose decoder has these rows, and its table of latents."""
    state = checkpoint.model_state(rows, torch.zeros(LATENTS), rows, torch.zeros(D), None)
    config = {"recipe": {"architecture": "topk", "k": 3}, "d_in": D, "d_sae": LATENTS}
    checkpoint.save(folder / f"{name}.pt", state, config, {})
    table = pa.table({"latent": np.arange(LATENTS), "density": density})
    write_table(folder / f"{name}.parquet", table)
    return folder / f"{name}.pt", folder / f"{name}.parquet"


def test_partners_are_found_in_any_order_and_dead_latents_are_left_out(tmp_path):
    rows = torch.nn.functional.normalize(torch.randn(LATENTS, D, generator=torch.Generator().manual_seed(0)))
    half = rows.flip(0).clone()
    half[:30] = -rows[30:].flip(0)  # of the latents 30 to 59 only the opposite directions
    density = np.r_[np.zeros(10), np.full(50, 0.1)]
    own, latents = written(tmp_path, "own", rows, density)
    same, _ = written(tmp_path, "same", rows.flip(0), density)
    other, _ = written(tmp_path, "other", half, density)
    match_seeds([own], [latents], [same, other], ["same", "other"], [3], tmp_path / "seeds.parquet")
    table = read_table(tmp_path / "seeds.parquet")
    assert sorted(table["latent"].unique()) == list(range(10, 60)) and set(table["layer"]) == {3}
    with_same, with_other = (table[table["other"] == name] for name in ("same", "other"))
    assert np.allclose(with_same["cosine"], 1, atol=1e-6)
    assert np.allclose(with_other["cosine"][:20], 1, atol=1e-6)
    assert (with_other["cosine"][20:] < 0.95).all()


def test_chance_is_that_of_rows_that_crowd_as_the_decoder_does(tmp_path):
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(LATENTS, D, generator=generator)
    crowded = spread * torch.tensor([1.0, 1.0] + [1e-3] * (D - 2))  # all but two dimensions empty
    for name, rows in (("spread", spread), ("crowded", crowded)):
        rows = torch.nn.functional.normalize(rows)
        own, latents = written(tmp_path, name, rows, np.full(LATENTS, 0.1))
        other, _ = written(
            tmp_path, f"{name}-other", rows[torch.randperm(LATENTS, generator=generator)], np.ones(LATENTS)
        )
        match_seeds([own], [latents], [other], ["other"], [0], tmp_path / f"{name}-seeds.parquet")
    spread, crowded = (read_table(tmp_path / f"{name}-seeds.parquet")["chance"] for name in ("spread", "crowded"))
    assert crowded.min() > 0.95
    assert spread.median() < 0.75


def test_the_figures_say_what_is_compared(tmp_path):
    _, svg = draw_seeds(tmp_path)
    assert "each of 2 other seeds" in svg.read_text()
    recipes = ("topk-k2", "topk-k4")
    plain = draw_pareto(tmp_path, recipes=recipes, recipe="topk-k2")[1].read_text()
    joined = draw_pareto(tmp_path, recipes=recipes, recipe="topk-k2", curves={"topk": [["topk-k2"], ["topk-k4"]]})[
        1
    ].read_text()
    assert "<!-- topk-k4 -->" in plain and "<!-- topk-k4 -->" not in joined
    assert "<!-- topk -->" in joined and "joined over the sparsities" in joined


def test_a_sweep_through_the_workflow(tmp_path):
    config = small(recipes={"topk": TOPK | {"learning_rate": 3e-3, "sweep": {"k": [4], "seed": [0, 1]}}})
    config |= {"training": {"tokens": "2k"}}
    config["activations"]["layers"] = [1]
    snakemake(tmp_path, config)
    assert planned(tmp_path, config) == []
    for recipe, other in (("topk-k4-seed0", "topk-k4-seed1"), ("topk-k4-seed1", "topk-k4-seed0")):
        assert (tmp_path / f"results/figures/{recipe}/10_seed_consistency.png").is_file()
        table = pd.read_parquet(tmp_path / f"results/metrics/{recipe}/seeds.parquet")
        assert set(table["other"]) == {other}
    page = (tmp_path / "results/index.html").read_text()
    assert "10_seed_consistency" in page
