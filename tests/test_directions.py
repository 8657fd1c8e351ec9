"""Directions of latents and their flow through the layers, on directions that are known."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from stores import D_IN

from sae_atlas.figures.layer_flow import plot_layer_flow
from sae_atlas.io.tables import read_table, write_table
from sae_atlas.metrics import directions
from sae_atlas.metrics.flow import match_layers
from sae_atlas.saes import checkpoint as checkpoints

EYE = torch.eye(3)


def test_alignment_is_the_cosine_of_reading_and_writing():
    encoder = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 1], [1, 0, 0]])
    decoder = torch.tensor([[1.0, 0, 0], [0, -1, 0], [1, 0, 0], [1, 1, 0]])
    torch.testing.assert_close(directions.alignment(encoder, decoder), torch.tensor([1, -1, 0, 1 / math.sqrt(2)]))


def test_the_nearest_other_is_never_the_row_itself():
    rows = torch.tensor([[1.0, 0, 0], [5, 5, 0], [0, 0, 2], [-1, 0, 0]])
    near = 1 / math.sqrt(2)
    torch.testing.assert_close(directions.nearest(rows), torch.tensor([near, near, 0, 0]))
    assert directions.nearest(torch.cat([EYE, EYE])).tolist() == pytest.approx([1.0] * 6)
    assert directions.nearest(EYE[:1]).isnan().all() and not len(directions.nearest(EYE[:0]))


def test_best_matches_both_ways_and_of_nothing():
    forth, back = directions.best_matches(EYE[:2], torch.tensor([[0.0, 7, 0], [0, 0, 1], [0, -1, 0]]))
    assert forth.tolist() == [0, 1] and back.tolist() == [1, 0, 0]
    forth, back = directions.best_matches(EYE, EYE[:0])
    assert forth.isnan().all() and len(forth) == 3 and not len(back)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_do_not_change_the_matches(monkeypatch, block):
    generator = torch.Generator().manual_seed(0)
    rows, others = (torch.randn(n, 8, generator=generator) for n in (50, 30))
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], others[None], dim=-1)
    itself = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1).fill_diagonal_(-2)
    monkeypatch.setattr(directions, "ROWS_AT_ONCE", block)
    forth, back = directions.best_matches(rows, others)
    torch.testing.assert_close(forth, cosines.amax(1))
    torch.testing.assert_close(back, cosines.amax(0))
    torch.testing.assert_close(directions.nearest(rows), itself.amax(1))


def test_settled_is_a_share_of_the_rows_not_of_the_final_ones():
    tilted = torch.tensor([[1.0, 0.1, 0], [0, 1, 1]])  # cosines 0.995 and 0.71
    assert directions.settled(tilted, EYE) == 0.5
    assert directions.settled(EYE, EYE) == 1
    assert directions.settled(EYE, EYE[:1]) == pytest.approx(1 / 3)
    assert math.isnan(directions.settled(EYE[:0], EYE))


def write_layer(folder, layer: int, decoder: torch.Tensor, density: list[float]):
    """A checkpoint with these decoder rows [d_sae, D_IN] and its per-latent table."""
    d_sae = len(decoder)
    state = {
        "b_pre": torch.zeros(D_IN),
        "encoder.weight": decoder.clone(),
        "encoder.bias": torch.zeros(d_sae),
        "decoder.weight": decoder.T.contiguous(),
        "decoder.bias": torch.zeros(D_IN),
    }
    config = {"d_in": D_IN, "d_sae": d_sae, "recipe": {"architecture": "relu"}}
    checkpoints.save(folder / f"{layer}.pt", state, config, {})
    write_table(folder / f"{layer}.parquet", pa.table({"density": np.array(density)}))


def flow_of(folder, layers):
    checkpoints_of, tables = ([folder / f"{layer}.{kind}" for layer in layers] for kind in ("pt", "parquet"))
    match_layers(checkpoints_of, tables, layers, folder / "flow.parquet")
    return read_table(folder / "flow.parquet")


def test_flow_follows_directions_and_leaves_the_dead_out(tmp_path):
    axes = torch.eye(D_IN)
    write_layer(tmp_path, 0, axes[[0, 1, 2]], [0.5, 0.5, 0])  # the third is dead
    write_layer(tmp_path, 3, axes[[2, 1]], [0.1, 0.1])  # the second goes on, another appears
    write_layer(tmp_path, 7, axes[[1, 5]], [0.1, 0.1])
    flow = flow_of(tmp_path, [0, 3, 7])
    assert flow.layer.tolist() == [0, 0, 3, 3, 7, 7]
    assert flow.latent.tolist() == [0, 1, 0, 1, 0, 1]
    assert flow.next.fillna(-9).tolist() == [0, 1, 0, 1, -9, -9]
    assert flow.previous.fillna(-9).tolist() == [-9, -9, 0, 1, 1, 0]
    assert flow.chance.iloc[0] == pytest.approx(math.sqrt(2 * math.log(2) / D_IN))


def test_flow_keeps_a_layer_that_is_all_dead(tmp_path):
    """Layers on both of its sides are not taken for neighbours, and it is in the table."""
    axes = torch.eye(D_IN)
    for layer, density in ((0, [0.5, 0.5]), (1, [0, 0]), (2, [0.5, 0.5])):
        write_layer(tmp_path, layer, axes[[0, 1]], density)
    flow = flow_of(tmp_path, [0, 1, 2])
    assert flow.layer.tolist() == [0, 0, 2, 2, 1] and flow.latent.tolist() == [0, 1, 0, 1, -1]
    assert flow[["previous", "next"]].isna().all(axis=None)
    tables = {"flow": tmp_path / "flow.parquet", "png": tmp_path / "7.png", "svg": tmp_path / "7.svg"}
    plot_layer_flow(**tables, title="m, resid_post", recipe="r", colour_map="viridis")
    drawn = (tmp_path / "7.svg").read_text()
    assert "0→1" in drawn and "1→2" in drawn and "no latent fired in layer 1" in drawn
