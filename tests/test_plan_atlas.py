"""The grid and the identities: what a change reaches, before anything runs."""

import itertools

import pytest
import saved
import yaml

from sae_atlas.config.read import complete_config, read_config
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.publishing import what_makes
from workflow import LIFE, ROOT, small


def atlas(**changes) -> Atlas:
    return Atlas(complete_config(small(**changes), "config.yaml"))


def test_windows_lie_end_to_end():
    grid = atlas()
    assert [grid.window(snapshot) for snapshot in grid.snapshots] == [(0, 1000), (1000, 2000), (2000, 3000)]
    assert [grid.published(snapshot) for snapshot in grid.snapshots] == ["1k", "2k", "final"]


def test_features_read_no_more_text_than_there_is():
    grid = atlas(features={})
    assert grid.config["features"]["tokens"] == grid.config["corpus"]["tokens"] == 8000


@pytest.mark.parametrize(("per_pass", "live"), [(1, 1), (1, 2), (2, 2), (2, 5), (3, 3), (3, 9)])
def test_live_stores_never_exceed_the_bound(per_pass, live):
    """Passes begin as early as they may and stores go as late as they may; the count holds at every moment."""
    grid = atlas(**{"activations.layers_per_pass": per_pass, "activations.max_live_stores": live})
    begun, freed = [], set()
    for snapshot, group in grid.passes:
        freed.update(grid.freed_by(snapshot, group))
        begun += [(layer, snapshot) for layer in grid.groups[group]]
        assert len(set(begun) - freed) <= live


def test_every_pass_waits_only_for_earlier_ones():
    grid = atlas(**{"activations.layers_per_pass": 1, "activations.max_live_stores": 2})
    for place, (snapshot, group) in enumerate(grid.passes):
        cells = {(layer, window) for window, name in grid.passes[:place] for layer in grid.groups[name]}
        assert set(grid.freed_by(snapshot, group)) <= cells


CELLS = {"recipe": ["topk", "l1"], "layer": [0, 1, 2], "snapshot": ["1k", "2k", "3k"]}


def trained(grid: Atlas) -> dict:
    cells = itertools.product(*CELLS.values())
    return {cell: grid.identity("train_sae", **dict(zip(CELLS, cell, strict=True))) for cell in cells}


@pytest.mark.parametrize(
    ("changes", "reached"),
    [
        ({"recipes.l1.l1.coefficient": 0.02}, lambda recipe, layer, snapshot: recipe == "l1"),
        ({"corpus.seed": 1}, lambda *cell: True),
        ({"activations.outlier_norm": 20}, lambda *cell: True),
        ({"activations.dtype": "int8"}, lambda *cell: True),
        ({"evaluation.tokens": 600}, lambda *cell: False),
        ({"figures.colour_map": "magma"}, lambda *cell: False),
        ({"activations.layers": [0, 1, 2, 3]}, lambda *cell: False),
        ({"activations.max_live_stores": 6}, lambda *cell: False),
        ({"training.snapshots": ["1k", "2k", "3k"], "training.tokens": "4k"}, lambda *cell: False),
        ({"recipes.new": {"architecture": "topk", "k": 2, "batch": 16}}, lambda *cell: False),
        ({"recipes.topk.decay": 0.5}, lambda recipe, layer, snapshot: recipe == "topk"),
    ],
)
def test_an_identity_changes_where_the_numbers_may(changes, reached):
    before, after = trained(atlas()), trained(atlas(**changes))
    assert {cell for cell in before if before[cell] != after[cell]} == {cell for cell in before if reached(*cell)}


def test_a_longer_run_leaves_the_windows_before_its_decay_alone():
    decay = {"recipes.topk.decay": 0.5}
    short = atlas(**decay)
    long = atlas(**decay, **{"training.snapshots": ["1k", "2k", "3k"], "training.tokens": "4k"})
    cell = {"recipe": "topk", "layer": 0}
    same = [
        snapshot
        for snapshot in short.snapshots
        if short.identity("train_sae", **cell, snapshot=snapshot)
        == long.identity("train_sae", **cell, snapshot=snapshot)
    ]
    assert same == ["1k"]


def test_the_headline_is_three_times_144_cells():
    grid = Atlas(read_config(ROOT / "config/pythia-410m.yaml"))
    assert (len(grid.recipes), len(grid.layers), grid.snapshots) == (
        3,
        24,
        ["50M", "100M", "150M", "200M", "250M", "300M"],
    )
    assert {grid.expansion(recipe) * 1024 for recipe in grid.recipes} == {32_768}
    assert [grid.config["recipes"][recipe]["l1"]["target_l0"] for recipe in grid.recipes] == [None, None, 150]


RELEASED = small(
    **{"activations.compression": "zstd", "activations.dtype": "int8", "activations.contexts_per_batch": 3}
)
TUNED = small(base_model=LIFE, **{"activations.layers": [1]})
WORKED = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / "config").glob("*.yaml")}


@pytest.mark.parametrize("config", [RELEASED, TUNED, *WORKED.values()], ids=["released", "tuned", *WORKED])
def test_a_published_config_makes_the_same_again(config, tmp_path, monkeypatch):
    saved.beside_the_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    ours = Atlas(complete_config(config, "config.yaml"))
    for recipe in ours.trained:
        published = yaml.safe_load(yaml.safe_dump(what_makes(ours, [recipe])))
        again = Atlas(complete_config(published, "published.yaml"))
        cells = {"floors": [{}]} if "floors" in config else {}
        cells |= {"model_card": [{"layer": layer} for layer in ours.layers]}
        pairs = itertools.product(ours.layers, ours.snapshots)
        cells |= {"train_sae": [{"layer": layer, "snapshot": snapshot} for layer, snapshot in pairs]}
        for stage, cell in ((stage, cell) for stage, each in cells.items() for cell in each):
            cell |= {"recipe": recipe}
            assert again.identity(stage, **cell) == ours.identity(stage, **cell), (stage, cell)
        if "students" in config.get("floors", {}):
            assert again.identity("distill") == ours.identity("distill")
