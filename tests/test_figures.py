"""Figures say what the tables say, are the same bytes every time, and can be read by everybody."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from drawn import DRAWS, LOOK, RECORD, draw, draw_curves, draw_heatmap, outputs
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from PIL import Image
from tables import write_curves, write_latents, write_metrics, write_seeds

from sae_atlas.figures.importance_spectrum import plot_importance_spectrum
from sae_atlas.figures.metrics_heatmap import plot_metrics_heatmap, readable_on
from sae_atlas.figures.scales import pivot, scale_of, value_text
from sae_atlas.figures.seed_consistency import plot_seed_consistency
from sae_atlas.figures.style import COLOUR_MAPS, colour_map, layer_colours, short_number
from sae_atlas.figures.training_curves import plot_training_curves
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.tables import write_table
from sae_atlas.metrics.labels import GROUPS, METRICS, OF_EVALUATION, OF_TASKS


@pytest.mark.parametrize("draw", DRAWS)
def test_same_input_same_bytes_and_the_identity_inside(tmp_path, draw):
    first = [path.read_bytes() for path in draw(tmp_path)]
    second = [path.read_bytes() for path in draw(tmp_path)]
    assert first == second
    assert RECORD["identity"] in Image.open(next(tmp_path.glob("*.png"))).text["Source"]
    assert RECORD["identity"] in next(tmp_path.glob("*.svg")).read_text()


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("layers, snapshots", [(1, (1000,)), (24, (1000, 2000, 3000, 4000, 5000, 6000))])
def test_any_number_of_layers_and_snapshots_is_drawn_inside_the_page(tmp_path, draw, layers, snapshots):
    """Nothing touches the edge of the picture, so nothing is cut off."""
    png, _ = draw(tmp_path, layers, snapshots)
    picture = imread(png)[..., :3]
    edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    assert all((edge == 1).all() for edge in edges)


def test_the_users_own_settings_do_not_reach_a_figure(tmp_path):
    import matplotlib

    png, _ = draw_heatmap(tmp_path)
    plain = png.read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "savefig.bbox": "tight"}):
        draw_heatmap(tmp_path)
    assert png.read_bytes() == plain


def test_an_adaptive_run_shows_lambda_and_its_target(tmp_path):
    _, svg = draw_curves(tmp_path, adaptive=True, target_l0=48.0)
    comments = svg.read_text()  # matplotlib writes every text as a comment beside its outlines
    assert "<!-- Lambda -->" in comments and "<!-- target 48 -->" in comments
    _, svg = draw_curves(tmp_path, adaptive=False)
    assert "<!-- Lambda -->" not in svg.read_text()


def test_a_lambda_that_stands_still_has_no_panel(tmp_path):
    curves = write_curves(tmp_path, 2, [1000], adaptive=True, rows=10)
    for path in curves:
        still = pd.read_parquet(path).assign(**{"lambda": 0.03})
        write_table(path, pa.Table.from_pandas(still))
    look = {"title": "base", "recipe": "l1", "target_l0": None, "colour_map": "viridis"}
    plot_training_curves(curves, [0, 1], tmp_path / "1.png", tmp_path / "1.svg", **look)
    text = (tmp_path / "1.svg").read_text()
    assert "<!-- Squared error -->" in text and "<!-- Lambda -->" not in text


def test_every_metric_of_the_heatmap_is_named_with_its_direction(tmp_path):
    _, svg = draw_heatmap(tmp_path)
    text = svg.read_text()
    for metric in set(itertools.chain(*GROUPS.values())) & set(OF_EVALUATION):
        assert f"<!-- {METRICS[metric].name} {METRICS[metric].arrow}".rstrip() in text
    assert "<!-- final -->" in text and "<!-- 1k -->" in text
    assert "<!-- Latents -->" in text and "<!-- Known truth -->" not in text  # of which the table has no row


def test_tasks_stand_below_the_other_metrics_where_they_were_asked(tmp_path):
    path = write_metrics(tmp_path / "metrics.parquet", "topk", 3, [1000, 2000])
    table = pd.read_parquet(path)
    asked = [table[table.metric == "fvu"].assign(metric=name) for name in OF_TASKS if not name.startswith("letter")]
    write_table(path, pa.Table.from_pandas(pd.concat([table, *asked]), preserve_index=False))
    png, svg = outputs(tmp_path, 2)
    plot_metrics_heatmap(path, png, svg, **LOOK)
    text = svg.read_text()
    assert "<!-- topic from 1 latent ↑ -->" in text and "<!-- topic from all dimensions -->" in text
    assert "over documents" in text and METRICS["letter_f1"].name not in text


def test_a_share_of_no_loss_is_said_to_say_nothing(tmp_path):
    path = write_metrics(tmp_path / "metrics.parquet", "topk", 3, [1000])
    table = pd.read_parquet(path)
    line = "CE recovered, {} ablation, says nothing of layer 1: there it does not raise the loss."
    for harmless in ([], ["zero"], ["zero", "mean"]):
        of_layer = table.metric.isin([f"ce_{each}" for each in harmless]) & (table.layer == 1)
        table.loc[of_layer, "value"] = 0.1
        write_table(path, pa.Table.from_pandas(table, preserve_index=False))
        _, svg = draw(plot_metrics_heatmap, tmp_path, 2, {"metrics": path})
        assert [each for each in ("zero", "mean") if line.format(each) in svg.read_text()] == harmless


def test_importance_is_of_the_held_out_tokens_and_not_of_those_of_the_tasks(tmp_path):
    tables = {"latents": write_latents(tmp_path, 2), "layers": range(2)}
    path = write_metrics(tmp_path / "metrics.parquet", "topk", 2, [1000])
    table = pd.read_parquet(path)
    asked = table[table.metric == "fvu"].assign(metric="probing_1", held_out_tokens=123_456)
    write_table(path, pa.Table.from_pandas(pd.concat([table, asked]), preserve_index=False))
    _, svg = draw(plot_importance_spectrum, tmp_path, 5, {**tables, "metrics": path})
    own = pd.read_parquet(tables["latents"][0])["held_out_tokens"].iloc[0]
    assert f"mean over {own:,} held-out tokens" in svg.read_text()


def test_seeds_are_compared_where_latents_fire_and_dead_layers_are_named(tmp_path):
    table = pd.read_parquet(write_seeds(tmp_path / "seeds.parquet", 2))
    alike = table.assign(density=1.0)
    dead = table.groupby(["layer", "other"]).head(1).assign(latent=-1, density=np.nan, cosine=np.nan, chance=np.nan)
    for name, rows, below in (
        ("one density", alike, None),
        ("a dead layer", pd.concat([table[table.layer == 0], dead[dead.layer == 1]]), "no latent fired in layer 1"),
        ("all dead", dead, "no latent fired in layer 0, 1"),
    ):
        (folder := tmp_path / name).mkdir()
        write_table(folder / "seeds.parquet", pa.Table.from_pandas(rows, preserve_index=False))
        _, svg = draw(plot_seed_consistency, folder, 10, {"seeds": folder / "seeds.parquet"})
        assert ("no latent fired" in svg.read_text()) is (below is not None) and (below or "") in svg.read_text()


def test_a_table_without_losses_or_intervals_is_still_drawn(tmp_path):
    path = write_metrics(tmp_path / "metrics.parquet", "topk", 2, [1000])
    table = pd.read_parquet(path)
    table = table[table.metric.isin(["fvu", "dead_share"])].assign(low=np.nan, high=np.nan)
    table.loc[table.index[0], "value"] = np.nan
    write_table(path, pa.Table.from_pandas(table))
    plot_metrics_heatmap(path, *outputs(tmp_path, 2), **LOOK)
    assert (tmp_path / "2.png").stat().st_size > 10_000


def test_better_is_the_bright_end_whatever_the_direction():
    values = np.array([0.2, 0.5, 0.9])
    assert list(scale_of("up", values)(values)) == sorted(scale_of("up", values)(values))
    assert scale_of("up", values).ends == (0.2, 0.9)
    assert scale_of("down", values).ends == (0.9, 0.2)
    np.testing.assert_allclose(scale_of("down", values)(values), 1 - scale_of("up", values)(values))
    one = scale_of("one", np.array([0.8, 1.1]))
    np.testing.assert_allclose(one(np.array([1.0, 0.8, 1.1])), [1, 0, 0.5])
    assert one.ends == (0.8, 1.0)
    assert scale_of("one", np.array([1.3, 1.2])).ends == (1.3, 1.0)


def test_a_scale_does_not_make_much_of_little_and_is_not_spoilt_by_one_layer():
    nearly = np.array([32.0, 32.01])
    assert np.ptp(scale_of("up", nearly)(nearly)) < 0.05
    spoilt = np.array([0.85, 0.9, 0.95, 0.98, 0.93, 0.88, -40.0])
    scale = scale_of("up", spoilt)
    assert scale.low == 0.85 and scale(np.array([-40.0])) == 0
    nothing = scale_of("down", np.zeros(3))
    assert nothing.ends == (0.05, 0) and (nothing(np.zeros(3)) == 1).all()
    decades = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert scale_of("down", decades).log
    np.testing.assert_allclose(scale_of("down", decades)(decades), [1, 0.75, 0.5, 0.25, 0], atol=1e-12)


def test_pivot_orders_snapshots_by_tokens_and_layers_by_number(tmp_path):
    table = pd.read_parquet(write_metrics(tmp_path / "m.parquet", "topk", 12, [900, 10_000, 20_000])).sample(
        frac=1, random_state=0
    )
    found = pivot(table, "fvu")
    assert list(found.index) == ["900", "10k", "final"] and list(found.columns) == list(range(12))


def luminance(colours) -> np.ndarray:
    """Relative luminance of sRGB colours (WCAG 2.2)."""
    colours = np.asarray(colours)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_every_value_can_be_read_on_its_cell(name):
    """4.5 to 1 is what WCAG 2.2 asks of small text."""
    for fill in colour_map(name)(np.linspace(0, 1, 256)):
        ink, cell = luminance(to_rgb(readable_on(fill))), luminance(fill[:3])
        assert (max(ink, cell) + 0.05) / (min(ink, cell) + 0.05) >= 4.5


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_every_allowed_map_rises_in_lightness(name):
    """Then the order survives any kind of colour vision, and grey printing."""
    assert (np.diff(luminance(colour_map(name)(np.linspace(0, 1, 64))[:, :3])) > 0).all()
    assert len(set(layer_colours(name, range(30)).values())) == 30


def test_an_unsafe_or_misspelt_map_is_one_line():
    with pytest.raises(AtlasError, match=r"colour_map: 'viridi' is not .* did you mean `viridis`"):
        colour_map("viridi")
    with pytest.raises(AtlasError, match="valid are `viridis`, `cividis`"):
        colour_map("jet")


@pytest.mark.parametrize(
    "value, text",
    [
        (0.9531, "0.953"),
        (32.07, "32.1"),
        (147.2, "147"),
        (1204, "1204"),
        (12_690, "12.7k"),
        (2.5e6, "2.5M"),
        (0.00431, "0.0043"),
        (3.1e-4, "3e-4"),
        (0, "0"),
        (8.0, "8"),
    ],
)
def test_value_text(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize("value, text", [(0, "0"), (120_000, "120k"), (1.5e6, "1.5M"), (300e6, "300M"), (0.05, "0.05")])
def test_short_number(value, text):
    assert short_number(value) == text
