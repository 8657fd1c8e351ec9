"""Contexts of latents that are known: which are kept, in which order, and what is around them."""

import json

import numpy as np
import pytest
import torch
from random_saes import D_IN, random_sae
from rounding import exact
from texts import START, one_hot_text, random_text, text_of, token_sae

from sae_atlas.features import text as texts
from sae_atlas.features.top_activations import SAMPLED, TopActivations, edges, histogram
from sae_atlas.features.top_contexts import batches, contexts_of, features_of
from sae_atlas.metrics.active import Active
from sae_atlas.metrics.importance import entry_energy
from sae_atlas.pages.explorer.tables import Contexts
from sae_atlas.pages.explorer.text import Text as ExplorerText

FAR = 1e9  # no token is an outlier


def keep(text, sae, k=3, window=5, outlier_norm=FAR) -> tuple[TopActivations, int]:
    kept, seen = TopActivations(sae.d_sae, k, window), 0
    with torch.inference_mode():
        for batch in batches(text, sae, outlier_norm):
            kept.add(batch.starts, batch.columns, batch.values, batch.text_position, batch.document)
            seen += int(batch.counts.sum())
    return kept, seen


def contexts(text, sae, **options):
    return contexts_of(text, keep(text, sae, **options)[0]).to_pandas()


def features(text, sae, **options):
    kept, seen = keep(text, sae, **options)
    return features_of(kept, sae.W_dec.norm(dim=1).numpy(), seen)


def test_a_latent_of_a_token_has_the_places_of_the_token():
    """Four documents hold token 5, strongest in the third; of its two in the first document only the stronger counts."""
    tokens = np.array([[0, 5, 1, 5], [0, 1, 5, 2], [0, 2, 2, 5], [0, 5, 3, 1]])
    strength = np.array([[0, 2, 1, 3], [0, 1, 4, 1], [0, 1, 1, 9], [0, 1, 1, 1]])
    found = contexts(one_hot_text(tokens, strength, 6), token_sae(6), k=3)
    five = found.query("latent == 5 and band == 'top'")
    assert five.activation.tolist() == [9, 4, 3]
    assert five["rank"].tolist() == [0, 1, 2]
    assert five.document.tolist() == [2, 1, 0]
    assert five.topic.fillna("none").tolist() == ["none", "music", "birds"]
    assert five.context.tolist() == [9, 8, 7]  # the text begins at row 7 of the corpus
    assert [list(row) for row in five.tokens] == [[2, 2, 5], [1, 5, 2], [5, 1, 5]]
    assert [list(row) for row in five.activations] == [[0, 0, 9], [0, 4, 0], [2, 0, 3]]
    assert five.peak.tolist() == [2, 1, 2]
    assert five.start.tolist() == [1, 1, 1]


def test_a_dead_latent_has_no_context_and_is_said_to_be_dead():
    tokens = np.array([[0, 5, 1, 1], [0, 2, 5, 2]])
    text = one_hot_text(tokens, np.ones(tokens.shape), 6)
    assert set(contexts(text, token_sae(6)).latent) == {1, 2, 5}
    about = features(text, token_sae(6)).to_pandas()
    assert about.alive.tolist() == [False, True, True, False, False, True]
    assert about.density.tolist() == pytest.approx([0, 2 / 6, 2 / 6, 0, 0, 2 / 6])
    assert (about.tokens_seen == 6).all()


def test_masked_tokens_are_never_peaks():
    """The start fires its own latent harder than anything else, and is nowhere to be seen, not even in a window."""
    tokens = np.array([[0, 1, 0, 2, 3], [0, 3, 2, 0, 1]])
    found = contexts(one_hot_text(tokens, np.where(tokens == START, 99, 1), 4), token_sae(4))
    assert START not in set(found.latent)
    assert START not in set(np.concatenate(found.tokens.tolist()))
    assert sorted(map(len, found[found.band == "top"].tokens)) == [1, 1, 2, 2, 2, 2]


def test_outliers_are_never_peaks_but_stay_in_the_text():
    tokens = np.array([[0, 1, 2, 3, 1, 2]])
    text = one_hot_text(tokens, np.array([[0, 1, 1, 500, 1, 1]]), 4)
    found = contexts(text, token_sae(4), outlier_norm=10)
    assert set(found.latent) == {1, 2}
    assert list(found.tokens[0]) == [1, 2, 3, 1, 2]
    about = features(text, token_sae(4), outlier_norm=10).to_pandas()
    assert (about.tokens_seen == 4).all() and not about.alive[3]


def test_tokens_of_zeros_make_no_outliers_of_the_others():
    text = one_hot_text(np.array([[0, 1, 2, 3, 1, 2, 3, 1]]), np.array([[0, 1, 1, 0, 0, 0, 500, 0]]), 4)
    assert set(contexts(text, token_sae(4), outlier_norm=10).latent) == {1, 2}


def test_ranked_by_activations_not_by_pre_activations():
    """Latent 1 is largest before the TopK where two others are larger still: it does not fire there."""
    tokens = np.array([[0, 1, 1, 1]])
    x = np.array([[[0, 0, 0, 0], [0, 5, 0, 0], [0, 8, 9, 9], [0, 2, 0, 1]]])
    found = contexts(text_of(tokens, x), token_sae(4, k=2)).query("latent == 1")
    assert found.activation.tolist() == [5]
    assert list(found.activations[found.index[0]]) == [5, 0, 2]


def brute_force(text, latents: np.ndarray, latent: int, k: int) -> list[tuple]:
    """(place, activation) of the highest peak of each document, one latent at a time."""
    best = {}
    for place in np.flatnonzero(text.mask.ravel()):
        value, document = latents[place, latent], text.documents.ravel()[place]
        if value > 0 and value > best.get(document, (0, 0))[1]:
            best[document] = (place, value)
    return sorted(best.values(), key=lambda each: (-each[1], each[0]))[:k]


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu"])
@pytest.mark.parametrize("rows_per_read", [1, 4096])
def test_one_pass_finds_what_a_pass_per_latent_finds(monkeypatch, architecture, rows_per_read):
    monkeypatch.setattr(texts, "ROWS_PER_READ", rows_per_read)
    text, sae = random_text(40, 17, D_IN), exact(random_sae(architecture))
    found = contexts(text, sae, k=4).query("band == 'top'")
    latents = sae.encode(torch.from_numpy(text.activations).reshape(-1, D_IN)).numpy()
    for latent in range(sae.d_sae):
        rows = found[found.latent == latent]
        place = (rows.context - text.first) * text.context + rows.start + rows.peak
        expected = brute_force(text, latents, latent, 4)
        assert place.tolist() == [each[0] for each in expected]
        assert rows.activation.tolist() == [each[1] for each in expected]


def test_a_window_shows_the_latent_on_every_token_of_it():
    text, sae = random_text(30, 17, D_IN), exact(random_sae("topk"))
    latents = sae.encode(torch.from_numpy(text.activations)).numpy()
    found = contexts(text, sae, k=3, window=6)
    for row in found.itertuples():
        there = slice(row.start, row.start + len(row.tokens))
        assert (text.tokens[row.context - text.first, there] == row.tokens).all()
        assert (text.documents[row.context - text.first, there] == row.document).all()
        np.testing.assert_array_equal(row.activations, latents[row.context - text.first, there, row.latent])
        assert row.activations[row.peak] == row.activation == max(row.activations)
    stretch = text.mask.sum(axis=1).max()
    assert found.tokens.map(len).max() == min(6, stretch)


def test_memory_is_that_of_the_latents_whatever_the_text():
    kept = TopActivations(64, 3, 5)

    def size() -> int:
        arrays = [
            each for value in vars(kept).values() for each in (value.values() if isinstance(value, dict) else [value])
        ]
        return sum(each.nbytes for each in arrays if isinstance(each, np.ndarray))

    empty, sae = size(), random_sae("relu")
    for batch in batches(random_text(200, 17, D_IN), sae, FAR):
        kept.add(batch.starts, batch.columns, batch.values, batch.text_position, batch.document)
    assert size() == empty
    assert empty < 64 * (3 * (1 + SAMPLED) * (5 * 4 + 40) + 1200)


def spread(documents: int):
    """Token 1 once in each of so many documents, with strengths 1, 2, 3, ... in random order."""
    tokens = np.tile([0, 2, 1, 2], (documents, 1))
    strength = np.ones(tokens.shape)
    strength[:, 2] = np.random.default_rng(0).permutation(documents) + 1
    return one_hot_text(tokens, strength, 3)


def test_lower_bands_lie_at_their_quantiles_and_do_not_overlap():
    found = contexts(spread(1000), token_sae(3), k=12).query("latent == 1")
    assert found.groupby("band").size().to_dict() == {"top": 12, "q75": 4, "q50": 4, "q25": 4}
    assert found.activation[found.band == "top"].tolist() == list(range(1000, 988, -1))
    for band, middle in (("q75", 750), ("q50", 500), ("q25", 250)):
        values = found.activation[found.band == band]
        assert (values - middle).abs().max() < 230  # estimated from 48 of 1,000
        assert values.is_monotonic_decreasing
    lowest, highest = (found.groupby("band").activation.agg(how) for how in ("min", "max"))
    assert lowest["top"] > highest["q75"] and lowest["q75"] > highest["q50"] and lowest["q50"] > highest["q25"]
    assert found.document.is_unique


def test_a_latent_with_few_contexts_has_no_lower_bands():
    assert set(contexts(spread(3), token_sae(3), k=3).query("latent == 1").band) == {"top"}


def test_the_sample_is_a_fair_one():
    """Of 1,000 strengths each is in the sample of 200 with probability 1/5: its mean strays by 18 from 500."""
    kept, _ = keep(spread(1000), token_sae(3), k=50)
    sample = kept.value["sample"][1]
    assert len(set(sample)) == 200 and sample.min() > 0
    assert abs(sample.mean() - 500.5) < 5 * 18


def test_the_histogram_counts_every_activation_once():
    strength = np.array([[0, 1.0, 1.2, 1.5, 3.9, 1e-4]])
    about = features(one_hot_text(np.array([[0, 1, 1, 1, 1, 1]]), strength, 3), token_sae(3))
    bounds = json.loads(about.schema.field("histogram").metadata[b"edges"])
    counts = np.array(about["histogram"].to_pylist())
    assert len(bounds) == 25 and bounds[-1] == 4.0 and bounds[0] == pytest.approx(4 / 2**12)
    assert counts[1].sum() == 5 and counts[1][0] == 1 and counts[0].sum() == 0
    assert counts[1].tolist()[1:] == np.histogram(strength, bounds)[0].tolist()[1:]


def test_histogram_bins_lie_between_their_edges():
    values = np.exp(np.random.default_rng(0).uniform(-5, 5, 500)).astype(np.float32)
    kept = TopActivations(1, 1, 1)
    places = np.arange(500) * 2
    kept.add(np.arange(501), np.zeros(500, np.int64), values, places, places)
    largest = float(values.max())
    found, expected = histogram(kept.counts, largest)[0], np.histogram(values, edges(largest))[0]
    assert found[1:].tolist() == expected[1:].tolist()
    assert found.sum() == 500


def test_importance_is_that_of_the_metrics():
    text, sae = random_text(30, 17, D_IN), exact(random_sae("relu"))
    latents = sae.encode(torch.from_numpy(text.activations[text.mask]))
    active = Active.of(latents)
    expected = active.per_latent(entry_energy(active, sae.W_dec.norm(dim=1))) / len(latents)
    about = features(text, sae).to_pandas()
    np.testing.assert_allclose(about.importance, expected, rtol=1e-5)
    np.testing.assert_allclose(about.density, (latents > 0).double().mean(dim=0))
    np.testing.assert_array_equal(about.max_activation, latents.amax(dim=0))


@pytest.mark.parametrize(("context", "at", "start_type"), [(40_000, 39_000, "int32"), (300, 200, "int16")])
def test_a_place_is_what_it_is_however_long_the_context(context, at, start_type):
    """Also in the explorer, which reads starts of both widths: tables that were made before hold 16 bits."""
    tokens = np.ones((1, context), int)
    tokens[0, 0], tokens[0, at] = START, 5
    text = one_hot_text(tokens, np.ones(tokens.shape), 6)
    table = contexts_of(text, keep(text, token_sae(6))[0])
    (five,) = (row for row in table.to_pylist() if row["latent"] == 5)
    assert five["start"] + five["peak"] == at
    column = table.column_names.index("start")
    table = table.set_column(column, "start", table["start"].cast(start_type))
    corpus = ExplorerText(np.repeat(tokens, text.first + 1, axis=0), np.array([text.first]))
    explored = Contexts(table, np.ones(6), corpus, ["birds"])
    assert explored.peaks[explored.latents == 5].tolist() == [5]
    assert explored.peak_positions[explored.latents == 5].tolist() == [at]
