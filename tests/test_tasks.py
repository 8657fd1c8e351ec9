"""The tasks on arrays: a latent that is the label answers all of them, one that knows nothing answers by chance."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from sae_atlas.saes.sae import Sae
from sae_atlas.tasks import spurious_correlation, topic_perturbation, topics
from sae_atlas.tasks.ablation import ablated_logits, mean_difference, strongest
from sae_atlas.tasks.absorption import absorbed
from sae_atlas.tasks.accuracy import balanced_accuracy, draws, value_and_interval
from sae_atlas.tasks.answers import over_letters
from sae_atlas.tasks.codes import Code, pca_code, random_sae
from sae_atlas.tasks.first_letter import f1, split
from sae_atlas.tasks.linear_probe import LinearProbe, fit
from sae_atlas.tasks.sparse_probing import k_sparse_predictions
from sae_atlas.tasks.words import word_ids

DOCUMENTS, TOPICS = 240, ("arts", "maths", "people", "places")
generator = np.random.default_rng(0)


def noise(*shape) -> np.ndarray:
    return generator.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def planted():
    """Documents of four topics, half of each with a second label. Latents 0 to 3 are the topics, 4 the second label, the others
    noise; each writes a direction of its own, and the activations are what all of them write.
    """
    topic = np.arange(DOCUMENTS) % 4
    second = generator.permutation(DOCUMENTS) % 2 == 0
    latents = np.concatenate([4.0 * np.eye(4)[topic], 4.0 * second[:, None], np.abs(noise(DOCUMENTS, 7)) * 0.1], axis=1)
    directions = np.eye(12, 16, dtype=np.float32)
    code = Code(latents.astype(np.float32), directions)
    data = topics.Labelled(code.activations @ directions, np.array(TOPICS)[topic], second)
    return code, data, draws(DOCUMENTS)


def test_balanced_accuracy_by_hand():
    right = np.array([True, False, True, True])
    groups = np.array([[True, True, False, False], [False, False, True, True]])
    counts = np.array([[1, 1, 1, 1], [0, 2, 1, 1], [0, 0, 2, 2]])
    found = balanced_accuracy(right, groups, counts)
    assert found[:2].tolist() == [0.75, 0.5] and np.isnan(found[2])  # no item of the first group is drawn
    assert value_and_interval(np.array([0.5, *np.linspace(0, 1, 41)])) == pytest.approx((0.5, 0.025, 0.975))


def test_a_latent_that_is_the_topic_tells_it_and_one_of_noise_does_not(planted):
    code, data, counts = planted
    dense = topics.DenseProbes(data)
    assert dense.accuracy(counts)[:, 0].tolist() == [1, 1, 1, 1]
    of_latents = topics.sparse_probing(code, dense, counts)
    assert of_latents[1][:, 0].tolist() == [1, 1, 1, 1]
    of_noise = topics.sparse_probing(Code(code.activations[:, 5:], code.directions[5:]), dense, counts)
    value, low, high = value_and_interval(of_noise[1].mean(axis=0))
    assert low < 0.5 < high and abs(value - 0.5) < 0.1


def test_sparse_probing_is_the_definition_of_sae_bench():
    """On as many documents of the class as of others: a plain logistic regression on the units with the largest difference."""
    labels = np.arange(200) < 100
    train, test = (np.abs(noise(200, 30)) + labels[:, None] * np.linspace(0, 1, 30) for _ in range(2))
    for count, said in k_sparse_predictions(train, labels, test).items():
        difference = np.abs(train[labels].mean(axis=0) - train[~labels].mean(axis=0))
        best = np.sort(np.argsort(difference)[-count:])
        plain = LogisticRegression(max_iter=1000).fit(train[:, best], labels)
        assert (said == plain.predict(test[:, best])).mean() > 0.999


def test_what_probes_say_does_not_hang_on_the_rounding_of_activations():
    """Fitted in float32, some hundreds of these predictions did, and differed from one kind of CPU to another."""
    drawn = np.random.default_rng(0)
    labels = np.arange(40) % 3 == 0
    for _ in range(40):
        train, test, *nudges = (drawn.standard_normal((size, 5)).astype(np.float32) for size in (40, 2000, 40, 40))
        said = k_sparse_predictions(0.03 * train, labels, 0.03 * test)
        for nudge in nudges:
            other = k_sparse_predictions(0.03 * train * (1 + 2e-7 * nudge), labels, 0.03 * test)
            assert all((other[count] == each).all() for count, each in said.items())


def test_ablating_the_topics_latent_takes_its_probe_to_chance_and_no_other(planted):
    code, data, counts = planted
    found = topics.perturbation(code, topics.DenseProbes(data), counts)
    assert sorted(found) == [2, 5, 10]  # there are 12 latents
    assert found[2]["intended"][0] == pytest.approx(0.5) and found[2]["total"][0] > 0.4
    of_noise = topics.perturbation(Code(code.activations[:, 5:], code.directions[5:]), topics.DenseProbes(data), counts)
    assert abs(of_noise[2]["total"][0]) < 0.05


def test_turning_a_component_round_changes_nothing(planted):
    _, data, counts = planted
    dense, components = topics.DenseProbes(data), pca_code(data.x)
    signs = np.where(np.arange(len(components.directions)) % 2, -1, 1).astype(np.float32)
    turned = Code(components.activations * signs, components.directions * signs[:, None], either_sign=True)
    one, other = (topics.perturbation(code, dense, counts) for code in (components, turned))
    assert all(np.array_equal(one[count]["total"], other[count]["total"]) for count in one) and one[2]["total"][0] > 0.2


def test_effects_by_hand():
    clean, ablated = np.array([1.0, 0.9]), np.array([[0.5, 0.8], [1.0, 0.6]])
    found = topic_perturbation.effects(clean, ablated)
    assert {name: round(float(value), 6) for name, value in found.items()} == {
        "intended": 0.4,  # (.5 + .3) / 2
        "unintended": 0.05,  # (.1 + 0) / 2
        "total": 0.35,
    }


def test_the_means_of_ablated_tokens_are_the_ablated_means():
    """SAEBench ablates in every token and takes the mean of what is decoded, error included; here the mean is ablated."""
    x, W_enc, W_dec = noise(3, 7, 6), noise(6, 10), noise(10, 6)
    latents = np.maximum(x @ W_enc, 0)
    weights, units = noise(6, 2), np.array([1, 4, 5])
    error, kept = x - latents @ W_dec, latents.copy()
    kept[..., units] = 0
    by_token = ((kept @ W_dec + error).mean(axis=1)) @ weights
    code = Code(latents.mean(axis=1), W_dec)
    pooled = ablated_logits(x.mean(axis=1) @ weights, code.activations, code.directions @ weights, units)
    assert np.allclose(by_token, pooled, atol=1e-4)


def test_effects_of_units_are_ranked_and_those_of_nothing_left_out():
    assert strongest(np.array([0.0, 2.0, -1.0, 2.0, 1.0]), 4).tolist() == [1, 3, 4]
    activations, labels = np.array([[1.0], [3.0], [5.0], [0.0]]), np.array([True, True, True, False])
    groups = np.array([[True, True, False, False], [False, False, True, False], [False, False, False, True]])
    assert mean_difference(activations, labels, groups).tolist() == [3.5]  # ((1 + 3) / 2 + 5) / 2 - 0


def test_ablating_one_label_cures_the_biased_probe_of_it(planted):
    """Topics are two latents, the second label is one: the biased probe learns the topics, and tells the second label worse."""
    code, data, counts = planted
    found = topics.correlation_removal(code, data, ("arts", "maths"), counts)
    assert found[2]["dir2"][0] == found[2]["metric"][0] == 1 and found[2]["dir1"][0] == 0
    of_noise = topics.correlation_removal(
        Code(code.activations[:, 6:], code.directions[6:]), data, ("arts", "maths"), counts
    )
    assert abs(of_noise[2]["metric"][0]) < 0.1


def test_scores_of_removal_by_hand():
    own, biased, ablated = np.array([1.0, 0.9, 0.7]), np.array([0.6, 0.9, 0.8]), np.array([0.9, 0.5, 0.1])
    assert spurious_correlation.score(own, biased, ablated).round(6).tolist() == [0.75, 0, 0]


def test_topics_without_both_labels_are_no_pair(planted):
    _, data, _ = planted
    assert len(topics.topic_pairs(data)) == 2
    alone = topics.Labelled(data.x, data.topics, data.topics == "arts")
    assert topics.topic_pairs(alone) == []


def test_a_linear_probe_reads_raw_activations_of_any_scale():
    labels = np.arange(60) % 2 == 0
    x = noise(60, 4) + 3 * labels[:, None]
    scaled = x * np.array([1.0, 1e4, 1e-3, 1.0]) + np.array([0, 5e4, 0, 1])
    groups = np.stack([labels, ~labels])
    one, other = fit(x, labels, groups).logits(x), fit(scaled, labels, groups).logits(scaled)
    assert np.allclose(one, other, atol=0.02) and ((one > 0) == labels).all()


def test_a_dimension_that_never_moves_is_no_part_of_a_probe():
    labels = np.arange(60) % 2 == 0
    x = (noise(60, 5) + 3 * labels[:, None]).astype(np.float32)
    x[:, 3] = 0.1  # whose deviation in float32 is not 0
    assert x.std(axis=0)[3] > 0
    groups = np.stack([labels, ~labels])
    others = np.delete(np.arange(5), 3)
    probe, without = fit(x, labels, groups), fit(x[:, others], labels, groups)
    assert probe.weights[3] == 0
    assert np.allclose(probe.weights[others], without.weights, rtol=1e-5)


def test_groups_weigh_the_same_whatever_their_size():
    labels = np.array([True] * 30 + [False] * 10)
    x = noise(40, 3) + labels[:, None]
    once = fit(x, labels, np.stack([labels, ~labels]))
    thrice = np.concatenate([np.flatnonzero(labels), *[np.flatnonzero(~labels)] * 3])
    expected = fit(x, labels, np.stack([labels, ~labels])).weights
    plain = LogisticRegression(C=0.1 * 40 / 60, max_iter=1000).fit(
        (x[thrice] - x.mean(axis=0)) / x.std(axis=0), labels[thrice]
    )
    assert np.allclose(expected * x.std(axis=0), plain.coef_[0], atol=1e-3) and isinstance(once, LinearProbe)


def test_f1_is_that_of_scikit_learn():
    predicted, truth = generator.random(50) < 0.5, generator.random(50) < 0.3
    counts = draws(50)[:4]
    for row, value in zip(counts, f1(predicted, truth, counts), strict=True):
        assert value == pytest.approx(f1_score(truth, predicted, sample_weight=row))
    assert np.isnan(f1(np.ones(3, bool), np.zeros(3, bool), np.ones((1, 3))))  # no word that could be found
    assert f1(np.zeros(3, bool), np.ones(3, bool), np.ones((1, 3))).tolist() == [0]


def test_a_letter_over_two_latents_is_split_over_two():
    labels = np.arange(120) % 3 == 0
    halves = np.arange(120) % 2 == 0
    latents = np.stack([labels & halves, labels & ~halves, generator.random(120) < 0.5], axis=1).astype(np.float32)
    found = split(latents, labels, latents, labels, np.array([1.0, 0.9, 0.1]))
    assert found.latents.tolist() == [0, 1] and sorted(found.predicted) == [1, 2, 3]
    whole = split(latents[:, [2]] * 0 + labels[:, None], labels, labels[:, None] * 1.0, labels, np.array([1.0]))
    assert whole.latents.tolist() == [0]


def test_absorption_by_hand():
    """The probe is the first axis. Latent 0 is the letter's, 1 writes its direction for words on which 0 is silent."""
    W_dec, probe = np.array([[1.0, 0], [0.8, 0.6], [0, 1.0]]), np.array([2.0, 0])
    latents = np.array([[3.0, 0, 1], [0, 4, 1], [1, 2.5, 0], [0, 0, 5]])
    x = latents @ W_dec
    x[3] = [2.0, 5]
    found = absorbed(latents, x, W_dec, probe, np.array([0]))
    # It writes all; silent, and latent 1 writes 3.2 of 3.2; 1 of 3, the rest by latent 1; the rest is written by none.
    assert found.fraction.round(6).tolist() == [0, 1, round(2 / 3, 6), 0]
    assert found.full.tolist() == [False, True, False, False]
    lengths = np.array([4.0, 0.25, 3])  # a latent of 1 / 4 that writes a row of 4
    rescaled = absorbed(latents / lengths, x, W_dec * lengths[:, None], probe, np.array([0]))
    assert np.allclose(rescaled.fraction, found.fraction) and rescaled.full.tolist() == found.full.tolist()


class Spellings:
    """Stands in for a tokenizer of five tokens."""

    texts = (" word", "Word", "word", "other", "?")

    def get_vocab(self) -> dict:
        return {text: number for number, text in enumerate(self.texts)}

    def decode(self, ids: list[int]) -> str:
        return self.texts[ids[0]]


def test_a_word_is_on_one_side_of_the_split_however_it_is_spelt():
    assert sorted(word_ids(Spellings(), None).tolist()) == [0, 3]


def test_a_word_that_the_model_has_no_embedding_of_is_not_asked_for():
    assert sorted(word_ids(Spellings(), 3).tolist()) == [0]


def test_one_letter_has_no_intervalover_letters():
    assert np.isnan(value_and_interval(over_letters([3]))[1:]).all() and value_and_interval(over_letters([3]))[0] == 3
    assert np.isnan(value_and_interval(over_letters([]))).all()


def test_codes_rebuild_and_random_directions_have_the_l0_asked_for():
    x = noise(300, 8)
    components = pca_code(x)
    assert np.allclose(components.activations @ components.directions + x.mean(axis=0), x, atol=1e-4)
    sae = random_sae(torch.from_numpy(x), 64, 5)
    assert isinstance(sae, Sae) and (sae.encode(torch.from_numpy(x)) > 0).sum(dim=1).double().mean() == pytest.approx(
        5, 0.01
    )
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64))
