"""What matches fire on: the same text through the SAEs of the places where they were found."""

import numpy as np
import pandas as pd
import pytest
from texts import one_hot_text, token_sae

from sae_atlas.features.evolution import evolution
from sae_atlas.features.matches import contexts_of_matches
from sae_atlas.saes.checkpoint import save

TOKENS = np.array([[0, 5, 1, 5], [0, 1, 5, 2], [0, 2, 2, 5], [0, 5, 3, 1], [0, 5, 4, 4]])
STRENGTH = np.array([[0, 2, 1, 3], [0, 1, 4, 1], [0, 1, 1, 9], [0, 1, 1, 1], [0, 2, 1, 1]])


def write(path, order: list[int]) -> None:
    """An SAE whose latent n is that of token order[n]."""
    sae = token_sae(6)
    state = {
        "b_pre": sae.b_dec,
        "encoder.weight": sae.W_enc.T[order].contiguous(),
        "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec[order].T.contiguous(),
        "decoder.bias": sae.b_dec * 0,
        "threshold": sae.threshold,
    }
    save(path, state, sae.config, {})


@pytest.fixture
def look(tmp_path, monkeypatch):
    """A function that returns the contexts of the matches of layer 0 at these earlier snapshots and in these layers.

    At 40k its latents stood the other way round; those of layer 1 stand one further.
    """

    def contexts(earlier=("40k",), neighbours=(1,)) -> pd.DataFrame:
        for name, order in (("now", [0, 1, 2, 3, 4, 5]), ("40k", [5, 4, 3, 2, 1, 0]), (1, [5, 0, 1, 2, 3, 4])):
            write(tmp_path / f"{name}.pt", order)
        places = {"snapshots": earlier, "layers": neighbours}
        places |= {"earlier": [tmp_path / f"{name}.pt" for name in earlier]}
        places |= {"neighbours": [tmp_path / f"{name}.pt" for name in neighbours]}
        evolution(tmp_path / "now.pt", tmp_path / "evolution.parquet", **places)
        asked = []

        def read(corpus, activations, layer, split):
            asked.append((activations, layer, split))
            return one_hot_text(TOKENS, STRENGTH, 6)

        monkeypatch.setattr("sae_atlas.features.matches.read_text", read)
        files, output = [f"layer {layer}" for layer in (0, *neighbours)], tmp_path / "matches.parquet"
        contexts_of_matches(
            "corpus", files, tmp_path / "evolution.parquet", output, split="train", layer=0, contexts=3, window=5,
            outlier_norm=1e9, device="cpu", **places,
        )  # fmt: skip
        assert set(asked) == {(f"layer {layer}", layer, "train") for layer in (0, *neighbours)}
        return pd.read_parquet(output)

    return contexts


def test_the_highest_contexts_of_each_match(look):
    """The latent of token 5 was latent 0 at 40k, and is latent 0 in layer 1."""
    found = look()
    assert set(zip(found["axis"], found["place"], strict=True)) == {("snapshot", "40k"), ("layer", "1")}
    assert set(found.band) == {"top"} and found.groupby(["axis", "latent"]).size().max() == 3
    for axis in ("snapshot", "layer"):
        five = found[(found["axis"] == axis) & (found.latent == 0)]
        assert five.activation.tolist() == [9, 4, 3] and five["rank"].tolist() == [0, 1, 2]
        assert five.context.tolist() == [9, 8, 7]  # the text begins at row 7 of the corpus
        assert (five.start + five.peak).tolist() == [3, 2, 3]


def test_only_latents_that_are_a_match_are_kept(look, tmp_path, monkeypatch):
    found = look()
    table = pd.read_parquet(tmp_path / "evolution.parquet")
    assert set(found.latent[found["axis"] == "snapshot"]) == {0, 1, 2, 3, 4}  # 5 was that of token 0, which is masked
    monkeypatch.setattr("sae_atlas.features.matches.read_table", lambda *_, **__: table.assign(match=2))
    found = look()
    assert set(found.latent) == {2}


def test_without_earlier_snapshots_and_neighbours_there_is_nothing(look):
    found = look(earlier=(), neighbours=())
    assert found.empty and {"axis", "place", "latent", "context", "start", "peak"} <= set(found.columns)
