"""Metrics on cases whose answer is known."""

import math

import numpy as np
import pytest
import torch
from rounding import exact, on_grid

from sae_atlas.metrics import importance, loss_recovered, reconstruction, sparsity
from sae_atlas.metrics.active import TOKENS_AT_ONCE, Active, decode, through_latents
from sae_atlas.metrics.bootstrap import confidence_interval, resampled
from sae_atlas.metrics.loss_recovered import recovered
from sae_atlas.metrics.losses import clean_predictions, losses
from sae_atlas.saes.checkpoint import fold
from sae_atlas.saes.parts import initial_weights
from sae_atlas.saes.sae import Sae

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(200, 5, generator=GENERATOR, dtype=torch.float64) + 3


def sums(x, x_hat):
    return {name: float(each.sum()) for name, each in reconstruction.token_sums(x, x_hat, x.mean(dim=0)).items()}


def test_fvu_of_the_mean_is_one_and_of_perfection_zero():
    assert reconstruction.fvu(sums(X, X.mean(dim=0).expand_as(X))) == pytest.approx(1)
    assert reconstruction.fvu(sums(X, X)) == 0
    assert reconstruction.fvu(sums(X, torch.zeros_like(X))) > 1


def test_explained_variance_of_the_mean_is_exactly_zero():
    x = X.float()
    mean = x.double().mean(dim=0).float()  # what an SAE that predicts it has as its decoder bias
    found = {name: float(each.sum()) for name, each in reconstruction.token_sums(x, mean.expand_as(x), mean).items()}
    assert reconstruction.explained_variance(found) == 0
    assert reconstruction.explained_variance(sums(X, X)) == 1
    assert reconstruction.explained_variance(sums(X, torch.zeros_like(X))) < 0


def test_fvu_does_not_see_scale_or_shift():
    x_hat = X + torch.randn(X.shape, generator=GENERATOR, dtype=torch.float64)
    value = reconstruction.fvu(sums(X, x_hat))
    assert reconstruction.fvu(sums(3 * X, 3 * x_hat)) == pytest.approx(value)
    assert reconstruction.fvu(sums(X + 7, x_hat + 7)) == pytest.approx(value)


def test_fvu_by_hand():
    x = torch.tensor([[0.0, 0], [2, 0], [4, 6]], dtype=torch.float64)  # mean (2, 2): variance 8 + 4 + 20 = 32
    x_hat = torch.tensor([[0.0, 1], [2, 0], [4, 2]], dtype=torch.float64)  # error 1 + 0 + 16 = 17
    assert reconstruction.fvu(sums(x, x_hat)) == pytest.approx(17 / 32)
    assert reconstruction.mse(sums(x, x_hat)) == pytest.approx(17 / 3)


def test_halves_add_up_to_the_whole():
    x_hat, mean = 0.9 * X, X.mean(dim=0)
    whole = reconstruction.token_sums(X, x_hat, mean)
    first, second = (reconstruction.token_sums(X[rows], x_hat[rows], mean) for rows in (slice(70), slice(70, None)))
    for name, each in whole.items():
        torch.testing.assert_close(torch.cat([first[name], second[name]]), each)


def test_shrinkage_shows_in_norm_ratio_and_bias_but_not_in_cosine():
    shrunk = sums(X, 0.8 * X)
    assert reconstruction.cosine(shrunk) == pytest.approx(1)
    assert reconstruction.norm_ratio(shrunk) == pytest.approx(0.8)
    assert reconstruction.relative_bias(shrunk) == pytest.approx(0.8)


def test_rows_of_zeros_have_neither_norm_ratio_nor_cosine():
    x = torch.cat([X, torch.zeros_like(X)])
    x_hat = torch.cat([0.8 * X, torch.full_like(X, 5)])
    assert reconstruction.cosine(sums(x, x_hat)) == pytest.approx(1)
    assert reconstruction.norm_ratio(sums(x, x_hat)) == pytest.approx(0.8)


def test_sparsity_by_hand():
    active = Active.of(torch.tensor([[1.0, 0, 0, 2], [0, 0, 0, 3]]))
    assert sparsity.l0(active).tolist() == [2, 1]
    assert sparsity.firing_counts(active).tolist() == [1, 0, 0, 2]
    assert sparsity.dead(sparsity.firing_counts(active)) == 2


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 1])  # of the entries that are active: both decoders, and empty rows
def test_active_entries_decode_as_the_whole_matrix_does(share):
    torch.manual_seed(0)
    weights = initial_weights(6, 40, torch.randn(6), seed=0)
    sae = Sae(fold(weights, None, torch.zeros(6), 1.0), {"recipe": {"architecture": "relu"}})
    latents = torch.rand(30, 40) * (torch.rand(30, 40) < share)
    for decoded in (
        decode(sae, latents, Active.of(latents), torch.zeros(30, 6)),
        Active.of(latents).reconstruction(sae),
    ):
        torch.testing.assert_close(decoded, sae.decode(latents))


def test_many_tokens_are_measured_as_few_are():
    """Parts of TOKENS_AT_ONCE tokens, the last one shorter; and no token at all."""
    torch.manual_seed(0)
    weights = initial_weights(6, 40, torch.randn(6), seed=0)
    sae = exact(Sae(fold(weights, None, torch.zeros(6), 1.0), {"recipe": {"architecture": "topk", "k": 3}}))
    x = on_grid(torch.randn(2 * TOKENS_AT_ONCE + 5, 6))
    found, decoded = through_latents(sae, x)
    whole = Active.of(sae.encode(x))
    for name in ("token", "latent"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert (found.tokens, found.d_sae) == (len(x), 40)
    assert torch.equal(found.value, whole.value)
    assert torch.equal(decoded, sae(x))
    nothing, empty = through_latents(sae, x[:0])
    assert nothing.tokens == 0 and empty.shape == (0, 6)


def test_density_and_activation_rate_by_hand():
    active = Active.of(torch.tensor([[1.0, 0, 0, 2], [0, 0, 0, 3]]))
    density = sparsity.density(sparsity.firing_counts(active), tokens=2)
    assert density.tolist() == [0.5, 0, 0, 1]
    found = {"l0": 3.0, "l0_squared": 5.0, "tokens": 2.0, "latents": 8.0}
    assert sparsity.activation_rate(found) == density.mean() == 3 / 8
    assert sparsity.mean_l0(found) == 1.5
    assert sparsity.l0_deviation(found) == 0.5  # of 2 and 1
    assert sparsity.median(torch.tensor([3, 1, 8])) == 3


def test_importance_by_hand():
    latents = torch.tensor([[1.0, 0, 0, 2], [0, 0, 0, 4]])
    norms = torch.tensor([2.0, 1, 1, 1])
    active = Active.of(latents)
    energy = active.per_latent(importance.entry_energy(active, norms))
    assert energy.tolist() == [4, 0, 0, 20]
    by_token = active.per_token(importance.entry_energy(active, norms))
    assert by_token.tolist() == [8, 16]
    assert importance.total({"energy": float(by_token.sum()), "tokens": 2}) == float(energy.sum()) / 2
    torch.testing.assert_close(  # a latent scaled up and its decoder row down is the same latent
        importance.entry_energy(Active.of(latents * 5), norms / 5), importance.entry_energy(active, norms)
    )
    spectrum = importance.spectrum(energy)
    assert spectrum.tolist() == [20, 4, 0, 0]
    assert importance.participation_ratio(spectrum) == pytest.approx(24**2 / 416)
    assert [importance.rank(spectrum, share) for share in (0.5, 0.83, 0.84, 0.99)] == [1, 1, 2, 2]


def test_equal_importances_are_as_many_as_there_are_and_none_is_no_number():
    level = torch.full((100,), 0.3, dtype=torch.float64)
    assert importance.participation_ratio(level) == pytest.approx(100)
    assert importance.rank(level, 0.99) == 99
    assert math.isnan(importance.participation_ratio(level * 0)) and math.isnan(importance.rank(level * 0, 0.99))


def test_superposition_numbers_are_the_published_ones():
    # Pythia-410M, layers 12 and 16: F, L0 -> alpha, g, d*
    for alive, l0, alpha, g, d_star in (
        (28665, 218.29, 0.99238, 26.92, 1064.7),
        (29169, 248.96, 0.99146, 24.60, 1185.9),
    ):
        assert importance.alpha(l0, alive) == pytest.approx(alpha, abs=5e-6)
        assert importance.capacity(importance.alpha(l0, alive)) == pytest.approx(g, abs=5e-3)
        assert alive / importance.capacity(importance.alpha(l0, alive)) == pytest.approx(d_star, abs=0.1)
    assert importance.capacity(1 - 1 / math.e) == pytest.approx(math.e)  # the least it can be
    assert importance.capacity(0.0) == importance.capacity(1.0) == math.inf


def test_losses_by_hand():
    level, sure = torch.zeros(1, 3, 4), torch.tensor([[[100.0, 0, 0, 0]] * 3])
    tokens = torch.tensor([[0, 1, 2]])
    entropy, divergence = losses(level, tokens, clean_predictions(sure))
    assert entropy.flatten().tolist() == pytest.approx([np.log(4)] * 2)
    assert divergence.flatten().tolist() == pytest.approx([np.log(4)] * 2)
    assert (recovered(10, 3, 3), recovered(10, 10, 3), recovered(10, 6.5, 3)) == (1, 0, 0.5)


def test_recovered_losses_by_hand():
    found = {"ce_clean": 6.0, "ce_zero": 20.0, "ce_mean": 16.0, "ce_sae": 8.0, "predictions": 2.0}
    found |= {"kl_sae": 3.0, "kl_zero": 12.0}
    assert loss_recovered.mean_loss("ce_clean")(found) == 3
    assert loss_recovered.ce_increase(found) == 1
    assert loss_recovered.ce_recovered(found) == pytest.approx(12 / 14)
    assert loss_recovered.ce_recovered_mean_ablation(found) == pytest.approx(8 / 10)
    assert loss_recovered.kl_recovered(found) == pytest.approx(3 / 4)


def test_losses_agree_with_torchs_own():
    logits, clean = torch.randn(2, 3, 6, 50, generator=GENERATOR, dtype=torch.float64).float() * 5
    tokens = torch.randint(50, (3, 6), generator=GENERATOR)
    entropy, divergence = losses(logits, tokens, clean_predictions(clean))
    flat = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(entropy.flatten(), flat)
    p, q = (each[:, :-1].log_softmax(-1) for each in (clean, logits))
    torch.testing.assert_close(divergence, (p.exp() * (p - q)).sum(-1), atol=1e-5, rtol=1e-5)


def test_the_interval_holds_the_mean_as_often_as_it_says():
    generator, hits = np.random.default_rng(0), 0
    for seed in range(200):
        sample = {"a": generator.normal(1, 1, 60), "n": np.ones(60)}
        drawn = resampled(sample, seed)
        low, high = confidence_interval(drawn["a"] / drawn["n"])
        hits += low <= 1 <= high
    assert 180 <= hits <= 199  # 95 % of 200, give or take
