"""Figures 3 to 7 show what the tables hold, and start without torch."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from drawn import draw_convergence, draw_floors, draw_flow, draw_heatmap, draw_pareto

from sae_atlas.figures.feature_density import bins
from sae_atlas.figures.loss_floor_predictions import drawn
from sae_atlas.figures.published import SUITES, suites_of
from sae_atlas.io.errors import AtlasError


def test_a_table_that_is_none_is_one_line(tmp_path):
    from sae_atlas.io.tables import read_table

    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(AtlasError, match=r"bad\.parquet: no readable table\. Delete it and rerun"):
        read_table(tmp_path / "bad.parquet")


def texts(svg) -> str:
    """matplotlib writes every text as a comment beside its outlines."""
    return svg.read_text()


def test_convergence_says_what_settled_means(tmp_path):
    _, svg = draw_convergence(tmp_path)
    assert "<!-- Settled latents -->" in texts(svg) and "cosine of at least 0.9" in texts(svg)


def test_published_points_only_where_base_model_site_and_layer_are_the_same(tmp_path):
    known = "EleutherAI/pythia-160m-deduped"
    assert [len(suites_of(*of)) for of in ((known, "resid_post"), (known, "mlp_out"), (None, "resid_post"))] == [
        2,
        0,
        0,
    ]
    _, svg = draw_pareto(tmp_path, layers=9, base_model=known)  # layer 8 is among them
    assert "published: SAEBench, TopK" in texts(svg)
    for changes in ({"layers": 8, "base_model": known}, {"layers": 9, "base_model": known, "site": "mlp_out"}):
        _, svg = draw_pareto(tmp_path, **changes)
        assert "published" not in texts(svg)


def test_published_points_are_shares_and_name_their_source():
    for suite in SUITES:
        assert suite.source
        for point in (point for points in suite.points.values() for point in points):
            assert 0 < point.ce_recovered < 1 and point.l0 > 0
            assert point.fvu is None or 0 < point.fvu < 1


def test_pareto_of_one_recipe_and_of_many(tmp_path):
    for recipes in (("topk",), ("topk", *(f"l1-{number}" for number in range(12)))):
        _, svg = draw_pareto(tmp_path, recipes=recipes)
        for recipe in recipes:
            assert f"<!-- {recipe} -->" in texts(svg)


@pytest.mark.parametrize("students", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_floors_with_and_without_students(tmp_path, layers, students):
    _, svg = draw_floors(tmp_path, layers=layers, students=students)
    assert ("<!-- Measured: 6 students, still falling by 2.0% -->" in texts(svg)) == students
    assert "d*: width that would hold all alive latents" in texts(svg)


def test_the_axis_of_floors_ends_where_what_is_drawn_ends():
    """Predictions of the correction that a layer is not near to are not drawn, and would leave half a panel empty."""
    floors = pd.DataFrame(
        {"formula": ["published", "zipf", "uniform"], "floor": [0.1, 0.3, 2e-6], "total": 1.0, "nearer": "zipf"}
    )
    assert drawn(floors)["formula"].tolist() == ["published", "zipf"]


@pytest.mark.parametrize("layers", [2, 4, 30])
def test_flow_names_the_pairs_of_layers(tmp_path, layers):
    _, svg = draw_flow(tmp_path, layers=layers)
    assert "<!-- 0→1 -->" in texts(svg)


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 8046])
def test_density_bins_hold_every_count_once(tokens):
    densities = np.arange(1, tokens + 1) / tokens
    counts = np.histogram(densities, bins(tokens))[0]
    assert counts.sum() == tokens
    assert counts[:-1].tolist() == [2**power for power in range(len(counts) - 1)]


def test_an_empty_recipe_table_is_refused(tmp_path):
    with pytest.raises(AtlasError, match=r"metrics\.parquet: .*no rows"):
        draw_heatmap(tmp_path, layers=0, snapshots=())


MODULES = "training_curves metrics_heatmap snapshot_convergence feature_density importance_spectrum pareto layer_flow"
MODULES += " loss_floor_predictions replaced_layers seed_consistency"


def test_no_figure_starts_torch_or_transformers():
    lines = [f"import sae_atlas.figures.{name}" for name in MODULES.split()]
    lines += ["import sys, sae_atlas.metrics.collect, sae_atlas.io.log, sae_atlas.io.provenance"]
    lines += ["assert not {'torch', 'transformers', 'zarr', 'numba'} & set(sys.modules)"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
