"""Metrics on cases whose answer is known, and the evaluation of SAEs whose effect is known."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.base_models.prepare import prepare
from sae_atlas.corpus import tokenize
from sae_atlas.errors import AtlasError
from sae_atlas.metrics import importance, reconstruction, sparsity
from sae_atlas.metrics.bootstrap import interval
from sae_atlas.metrics.collect import collect
from sae_atlas.metrics.evaluate import evaluate
from sae_atlas.metrics.held_out import save_held_out
from sae_atlas.metrics.loss_recovered import clean_predictions, losses, recovered
from sae_atlas.provenance import make_record
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.training.recipe import Recipe

RECORD = make_record("any", {"model_dtype": "float32"}, "", {})
ID = RECORD["identity"]
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(200, 5, generator=GENERATOR, dtype=torch.float64) + 3


def sums(x, x_hat):
    return {name: float(each.sum()) for name, each in reconstruction.token_sums(x, x_hat, x.mean(dim=0)).items()}


def test_fvu_of_the_mean_is_one_and_of_perfection_zero():
    assert reconstruction.fvu(sums(X, X.mean(dim=0).expand_as(X))) == pytest.approx(1)
    assert reconstruction.fvu(sums(X, X)) == 0
    assert reconstruction.fvu(sums(X, torch.zeros_like(X))) > 1


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


def test_sparsity_by_hand():
    latents = torch.tensor([[1.0, 0, 0, 2], [0, 0, 0, 3]])
    assert sparsity.l0(latents).tolist() == [2, 1]
    assert sparsity.firing_counts(latents).tolist() == [1, 0, 0, 2]
    assert sparsity.dead(sparsity.firing_counts(latents)) == 2


def test_importance_by_hand():
    latents = torch.tensor([[1.0, 0, 0, 2], [0, 0, 0, 4]])
    energy = importance.energy(latents, torch.tensor([2.0, 1, 1, 1]))
    assert energy.tolist() == [4, 0, 0, 20]
    torch.testing.assert_close(  # a latent scaled up and its decoder row down is the same latent
        importance.energy(latents * 5, torch.tensor([2.0, 1, 1, 1]) / 5), energy
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
        low, high = interval(sample, lambda s: s["a"] / s["n"], seed)
        hits += low <= 1 <= high
    assert 180 <= hits <= 199  # 95 % of 200, give or take


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Held-out data of a random Llama whose weights are large enough that its blocks matter."""
    folder = tmp_path_factory.mktemp("held_out")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 32, "initializer_range": 0.6}
    model = {"source": "random", "architecture": "llama", "sizes": sizes, "seed": 0, "tokenizer": "bytes"}
    prepare(folder / "provenance.json", model, RECORD)
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"Document {number} says {number * 37}." for number in range(400)))
    tokenize(folder / "corpus.zarr", byte_tokenizer(), {"source": "local", "path": str(text)}, 16, 500, 900, 0, RECORD)
    for site in ("resid_post", "mlp_out", "resid_pre"):
        save_held_out(
            folder / "provenance.json",
            folder / "corpus.zarr",
            folder / f"{site}.zarr",
            layers=[0, 2],
            site=site,
            tokens=800,
            patched_tokens=400,
            contexts_per_batch=8,
            model_dtype="float32",
            record=RECORD,
            expects={"base_model": ID, "corpus": ID},
        )
    return folder


def identity_sae(path, scale=1.0, bias=0.0):
    """x = relu(x) - relu(-x): an SAE that loses nothing (scale 1), or gives `bias` everywhere (scale 0)."""
    eye = torch.eye(16)
    state = {
        "b_pre": torch.zeros(16),
        "encoder.weight": torch.cat([eye, -eye]),
        "encoder.bias": torch.zeros(32),
        "decoder.weight": scale * torch.cat([eye, -eye]).T.contiguous(),
        "decoder.bias": torch.as_tensor(bias) + torch.zeros(16),
    }
    recipe = Recipe(architecture="relu", expansion=2).to_dict()
    config = {"recipe": recipe, "d_in": 16, "d_sae": 32, "tokens": 1000, "record": RECORD}
    config["normaliser"] = {"mean": torch.zeros(16), "scale": 1.0}
    checkpoints.save(path, state, config, {})
    return path


def measure(place, folder, site, layer, outlier_norm=10, held_out=None, **saes) -> pd.DataFrame:
    evaluate(
        held_out or place / f"{site}.zarr",
        place / "provenance.json",
        saes,
        folder / "t.parquet",
        folder / "t.json",
        recipe="r",
        layer=layer,
        contexts_per_batch=8,
        outlier_norm=outlier_norm,
        record=RECORD,
        expects={"base_model": ID, "held_out": ID, **dict.fromkeys(saes, ID)},
    )
    return pd.read_parquet(folder / "t.parquet").pivot(index="metric", columns="snapshot", values="value")


@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "resid_pre"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_perfect_sae_loses_nothing_and_a_zero_one_everything(place, tmp_path, site, layer):
    mean = torch.from_numpy(zarr.open_group(place / f"{site}.zarr")[f"layer{layer:02d}/mean"][:])
    table = measure(
        place,
        tmp_path,
        site,
        layer,
        perfect=identity_sae(tmp_path / "p.pt"),
        zero=identity_sae(tmp_path / "z.pt", scale=0.0),
        mean=identity_sae(tmp_path / "m.pt", scale=0.0, bias=mean),
    )
    assert table.perfect["fvu"] == pytest.approx(0, abs=1e-10)
    assert table.perfect["ce_recovered"] == pytest.approx(1, abs=1e-4)
    assert table.perfect["kl"] == pytest.approx(0, abs=1e-5)  # float32 sums over the vocabulary
    assert table.perfect["l0"] == pytest.approx(16)
    assert abs(table.perfect["ce_zero"] - table.perfect["ce_clean"]) > 0.02  # the ablation is felt
    assert table.zero["ce_recovered"] == pytest.approx(0, abs=1e-4)
    assert table.zero["kl_recovered"] == pytest.approx(0, abs=1e-4)
    assert table["mean"]["fvu"] == pytest.approx(1, abs=1e-5)
    assert table["mean"]["ce_sae"] == pytest.approx(table["mean"]["ce_mean"], abs=1e-4)


def test_without_outliers_the_mean_of_the_other_tokens_explains_nothing(place, tmp_path):
    group = zarr.open_group(place / "resid_post.zarr")
    x = group["layer00/site"][:][group["mask"][:]]
    norms = np.linalg.norm(x, axis=1)
    inside = norms <= 1.3 * np.median(norms)
    assert 20 < (~inside).sum() < inside.sum()
    mean = torch.from_numpy(x[inside].mean(axis=0))
    sae = identity_sae(tmp_path / "m.pt", scale=0.0, bias=mean)
    table = measure(place, tmp_path, "resid_post", 0, outlier_norm=1.3, final=sae)
    assert table.final["fvu_without_outliers"] == pytest.approx(1, abs=1e-5)
    assert table.final["fvu"] > 1.001
    windows = pd.read_parquet(tmp_path / "t.parquet").set_index("metric").held_out_tokens
    assert windows["fvu_without_outliers"] == inside.sum() < windows["fvu"] == len(x)


@pytest.mark.parametrize("array", ["mask", "final", "layer00/site", "layer00/kl_zero"])
@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_damaged_held_out_data_are_an_error_not_zeros(place, tmp_path, array, damage):
    shutil.copytree(place / "resid_post.zarr", tmp_path / "h.zarr")
    chunk = next(file for file in sorted((tmp_path / "h.zarr" / array / "c").rglob("*")) if file.is_file())
    if damage == "gone":
        chunk.unlink()
    else:
        chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    with pytest.raises(AtlasError, match=rf"h\.zarr/{array}: chunk 0 .*Delete the held-out data and rerun"):
        measure(place, tmp_path, "", 0, held_out=tmp_path / "h.zarr", final=identity_sae(tmp_path / "p.pt"))


def test_tables_are_joined_in_order_and_one_of_another_run_is_refused(place, tmp_path):
    sae = identity_sae(tmp_path / "p.pt")
    parts = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for part, layer in zip(parts, (0, 2), strict=True):
        measure(place, tmp_path, "resid_post", layer, final=sae)
        shutil.move(tmp_path / "t.parquet", part)
    collect(parts, tmp_path / "recipe.parquet", expects=[ID, ID])
    collect([tmp_path / "recipe.parquet", parts[0]], tmp_path / "all.parquet", expects=[ID, ID, ID])
    layers = pd.read_parquet(tmp_path / "all.parquet").layer
    assert layers[layers.diff() != 0].tolist() == [0, 2, 0]
    with pytest.raises(AtlasError, match=r"b\.parquet: made by other settings"):
        collect(parts, tmp_path / "no.parquet", expects=[ID, "0" * 16])
    with pytest.raises(AtlasError, match="1 evaluations are in none"):
        collect(parts, tmp_path / "no.parquet", expects=[ID, ID, ID])
    assert not (tmp_path / "no.parquet").exists()


def test_the_table_and_the_json_say_the_same_and_name_their_window(place, tmp_path):
    measure(place, tmp_path, "resid_post", 0, final=identity_sae(tmp_path / "p.pt"))
    table = pd.read_parquet(tmp_path / "t.parquet")
    found = json.loads((tmp_path / "t.json").read_text())
    assert [row["metric"] for row in found["metrics"]] == table.metric.tolist()
    assert found["record"] == RECORD
    windows = table.set_index("metric").held_out_tokens
    assert windows["dead"] >= 800 > windows["ce_sae"] > 350
    assert table[table.metric == "ce_sae"].unit.item() == "nats per token"


def test_inputs_of_another_run_are_refused(place, tmp_path):
    path = identity_sae(tmp_path / "p.pt")
    with pytest.raises(AtlasError, match=r"p\.pt: made by other settings"):
        evaluate(
            place / "resid_post.zarr",
            place / "provenance.json",
            {"final": path},
            tmp_path / "t.parquet",
            tmp_path / "t.json",
            "r",
            0,
            8,
            10,
            RECORD,
            {"base_model": ID, "held_out": ID, "final": "0" * 16},
        )
