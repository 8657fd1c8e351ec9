"""Best matches of latents whose directions are known."""

import pandas as pd
import pytest
import torch
from test_directions import write_layer

from sae_atlas.features.evolution import evolution
from sae_atlas.metrics import directions


@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_closest_is_the_one_with_the_largest_cosine(monkeypatch, block):
    monkeypatch.setattr(directions, "ROWS_AT_ONCE", block)
    generator = torch.Generator().manual_seed(0)
    rows, others = (torch.randn(n, 8, generator=generator) for n in (50, 30))
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], others[None], dim=-1)
    found, places = directions.partners(rows, others)
    torch.testing.assert_close(found, cosines.amax(1))
    assert (places == cosines.argmax(1)).all()


def evolve(folder):
    """Layer 2: its latents are those of layer 1 in another order, tilted in the snapshot before."""
    rows = torch.eye(16)[:6]
    write_layer(folder, 2, rows, [1.0] * 6)
    write_layer(folder, 1, 3 * rows.flip(0), [1.0] * 6)
    write_layer(folder, 40, rows + torch.eye(16)[6:12], [1.0] * 6)
    evolution(folder / "2.pt", folder / "out.parquet", ["40k"], [1], [folder / "40.pt"], [folder / "1.pt"])
    return pd.read_parquet(folder / "out.parquet")


def test_a_row_per_latent_and_place(tmp_path):
    found = evolve(tmp_path)
    earlier, beside = found[found.axis == "snapshot"], found[found.axis == "layer"]
    assert set(earlier.place) == {"40k"} and set(beside.place) == {"1"}
    assert earlier.match.tolist() == [0, 1, 2, 3, 4, 5] and beside.match.tolist() == [5, 4, 3, 2, 1, 0]
    assert earlier.cosine.tolist() == pytest.approx([0.5**0.5] * 6) and beside.cosine.tolist() == pytest.approx([1] * 6)
    assert earlier.latent.tolist() == beside.latent.tolist() == list(range(6))
