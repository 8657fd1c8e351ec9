"""Scores of latents whose answers are known: planted topics, tokens and positions, and noise."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_array
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from sae_atlas.features.peaks import position_bias, token_entropy, top_tokens
from sae_atlas.features.probes import probe_table
from sae_atlas.features.selectivity import aurocs, frequent_topics, selectivity

TOPICS = np.array(["arts", "maths", "people", None] * 30, object)


def noise(latents: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.random((len(TOPICS), latents)) * (generator.random((len(TOPICS), latents)) < 0.4)


def test_auroc_is_that_of_scikit_learn():
    scores, known = noise(20), TOPICS != None  # noqa: E711 (elementwise)
    members = np.stack([TOPICS[known] == name for name in ("arts", "maths")])
    expected = [[roc_auc_score(row, column) for column in scores[known].T] for row in members]
    np.testing.assert_allclose(aurocs(rankdata(scores[known], axis=0), members), expected)


def test_a_latent_that_fires_exactly_on_one_topic():
    scores = noise(4)
    scores[:, 0] = TOPICS == "maths"
    scores[:, 1] = (TOPICS == "maths") * np.linspace(1, 9, len(TOPICS)) + (TOPICS == None) * 99  # noqa: E711
    scores[:, 2] = 0
    scores[:, 3] = TOPICS != "arts"
    found = selectivity(csc_array(scores), TOPICS, 199, 0)
    names = np.array([*frequent_topics(TOPICS), None])
    assert names[found.topic[:2]].tolist() == ["maths", "maths"]
    assert found.auroc[:2].tolist() == [1, 1]  # unlabelled documents say nothing
    assert (found.baseline[:2] < 0.7).all()
    assert found.topic[2] == -1 and math.isnan(found.auroc[2]) and math.isnan(found.baseline[2])
    assert found.auroc[3] == pytest.approx(0.75)  # half of the others fire on it too


def test_latents_that_know_nothing_exceed_the_baseline_as_often_as_they_should():
    found = selectivity(noise(3000), TOPICS, 199, 0)
    assert 0.03 < (found.auroc > found.baseline).mean() < 0.07
    again = selectivity(csc_array(noise(3000)), TOPICS, 199, 0)  # sparse or not, the same
    np.testing.assert_array_equal(found.auroc, again.auroc)
    np.testing.assert_array_equal(found.baseline, again.baseline)


def test_rare_topics_and_texts_without_topics_say_nothing():
    assert frequent_topics(np.array(["a"] * 5 + ["b"] * 4 + [None] * 9, object)) == ["a"]
    found = selectivity(np.ones((9, 2)), np.array([None] * 9, object), 19, 0)
    assert found.topic.tolist() == [-1, -1] and np.isnan(found.auroc).all()


def test_entropy_and_top_token_weigh_by_activation():
    rows = [(0, 7, 2.0), (0, 7, 1.0), (1, 5, 1.0), (1, 6, 1.0), (1, 8, 2.0), (2, 9, 1.0), (2, 3, 1.0)]
    peaks = pd.DataFrame(rows, columns=["latent", "token", "activation"])
    assert token_entropy(peaks).to_dict() == pytest.approx({0: 0, 1: 1.5, 2: 1})
    assert top_tokens(peaks).to_dict() == {0: 7, 1: 8, 2: 3}


def test_position_bias_is_that_of_the_text_itself_zero():
    positions = np.tile(np.arange(1, 9), 5)
    everywhere = pd.DataFrame({"latent": 0, "position": positions})
    first = pd.DataFrame({"latent": [1, 1], "position": [1, 1]})
    last = pd.DataFrame({"latent": [2], "position": [8]})
    found = position_bias(pd.concat([everywhere, first, last]), positions)
    assert found.to_dict() == pytest.approx({0: 0, 1: -7 / 8, 2: 7 / 8})


@pytest.fixture(scope="module")
def probed():
    latents, raw = noise(30), np.random.default_rng(1).normal(size=(len(TOPICS), 6))
    latents[:, 11] = (TOPICS == "maths") * 3.0
    latents[:, 4] += (TOPICS == "arts") * 0.3
    raw[:, 2] += 2 * (TOPICS == "people")
    return latents, raw, probe_table(csc_array(latents), raw, TOPICS, ["arts", "maths", "people"], 5)


def test_probes_find_what_was_planted(probed):
    table = probed[2].set_index(["topic", "latents"])
    assert table.accuracy["maths", 1] == 1
    assert table.low["people", 0] > 0.6
    assert (table.low <= table.accuracy).all() and (table.accuracy <= table.high).all()
    assert set(table.documents) == {90} and set(table.of_topic) == {30}


def test_a_probe_is_scikit_learn_called_by_hand(probed):
    latents, raw, table = probed
    known = TOPICS != None  # noqa: E711
    latents, raw, topics = latents[known], raw[known], TOPICS[known].astype(str)
    labels = topics == "arts"
    for count in (2, 0):
        told = np.zeros(len(labels), bool)
        for train, test in StratifiedKFold(3, shuffle=True, random_state=5).split(topics, topics):
            inputs = raw
            if count:
                scaled = StandardScaler().fit(latents[train]).transform(latents)
                means = scaled[train][labels[train]].mean(axis=0) - scaled[train][~labels[train]].mean(axis=0)
                inputs = latents[:, np.argsort(-abs(means))[:count]]
            scaler = StandardScaler().fit(inputs[train])
            model = LogisticRegression(class_weight="balanced", C=0.1, max_iter=1000)
            told[test] = model.fit(scaler.transform(inputs[train]), labels[train]).predict(
                scaler.transform(inputs[test])
            )
        row = table[(table.topic == "arts") & (table.latents == count)]
        assert row.accuracy.item() == pytest.approx(balanced_accuracy_score(labels, told))


def test_probes_of_noise_know_nothing():
    table = probe_table(csc_array(noise(200)), noise(6, 2), TOPICS, ["arts", "maths", "people"], 0)
    assert abs(table.accuracy.mean() - 0.5) < 0.05


def test_a_text_without_topics_has_no_probes():
    assert probe_table(csc_array(noise(5)), noise(6), np.full(len(TOPICS), None), [], 0).empty
