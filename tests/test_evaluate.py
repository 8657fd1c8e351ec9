"""The evaluation of SAEs whose effect is known, and what it does with damaged inputs."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from safetensors.torch import load_file, save_file

from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.base_models.prepare import prepare
from sae_atlas.config.read import complete_recipe
from sae_atlas.corpus import tokenize
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.provenance import make_record, recording
from sae_atlas.io.tables import identities, read_table
from sae_atlas.metrics.collect import collect
from sae_atlas.metrics.evaluate import evaluate
from sae_atlas.metrics.held_out import save_held_out
from sae_atlas.metrics.labels import OF_EVALUATION, OF_PREDICTIONS, OF_TOKENS
from sae_atlas.saes import checkpoint as checkpoints

RECORD = make_record("evaluate_sae", {}, "", {})
ID = RECORD["identity"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Held-out data of a random Llama whose weights are large enough that its blocks matter."""
    folder = tmp_path_factory.mktemp("held_out")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 32, "initializer_range": 0.6}
    model = {"source": "random", "architecture": "llama", "sizes": sizes, "seed": 0, "tokenizer": "bytes"}
    prepare(folder / "provenance.json", **model)
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"Document {number} says {number * 37}." for number in range(400)))
    source = {"source": "local", "path": str(text)}
    tokenize(folder / "provenance.json", folder / "corpus.zarr", source, 16, 500, 900, 0)
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
    recipe = complete_recipe({"architecture": "relu", "expansion": 2})
    config = {"recipe": recipe, "d_in": 16, "d_sae": 32, "tokens": 1000}
    config["normaliser"] = {"mean": torch.zeros(16), "scale": 1.0}
    checkpoints.save(path, state, config, {})
    return path


def measure(place, folder, site, layer, outlier_norm=10, held_out=None, **saes) -> pd.DataFrame:
    with recording(RECORD):
        evaluate(
            (held_out or place / f"{site}.zarr") / f"layer{layer:02d}",
            place / "provenance.json",
            list(saes.values()),
            list(saes),
            folder / "t.parquet",
            folder / "latents.parquet",
            folder / "blocks.parquet",
            folder / "t.json",
            recipe="r",
            layer=layer,
            contexts_per_batch=8,
            outlier_norm=outlier_norm,
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
    assert table["mean"]["fvu"] == 1
    assert table["mean"]["explained_variance"] == 0  # exactly
    assert table.perfect["alignment"] == pytest.approx(1)
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
    assert table.final["fvu_without_outliers"] == pytest.approx(1, abs=1e-12)
    assert table.final["explained_variance_without_outliers"] == pytest.approx(0, abs=1e-12)
    assert table.final["fvu"] > 1.001
    windows = pd.read_parquet(tmp_path / "t.parquet").set_index("metric").held_out_tokens
    assert windows["fvu_without_outliers"] == inside.sum() < windows["fvu"] == len(x)


def test_tokens_of_zeros_make_no_outliers_of_the_others_and_have_no_norm_ratio(place, tmp_path):
    shutil.copytree(place / "resid_post.zarr", tmp_path / "h.zarr")
    group = zarr.open_group(tmp_path / "h.zarr")
    x = group["layer00/site"][:]
    x[np.random.default_rng(0).random(x.shape[:2]) < 0.8] = 0
    group["layer00/site"][:], group["layer00/mean"][:] = x, x[group["mask"][:]].mean(axis=0)
    halved = identity_sae(tmp_path / "h.pt", scale=0.5)
    table = measure(place, tmp_path, "resid_post", 0, held_out=tmp_path / "h.zarr", final=halved)
    windows = pd.read_parquet(tmp_path / "t.parquet").set_index("metric").held_out_tokens
    assert windows["fvu_without_outliers"] == windows["fvu"]
    assert table.final["fvu_without_outliers"] == pytest.approx(table.final["fvu"], rel=1e-4)
    assert table.final["norm_ratio"] == pytest.approx(0.5) and table.final["cosine"] == pytest.approx(1)


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


def test_tables_are_joined_in_order_with_what_they_carry(place, tmp_path):
    sae = identity_sae(tmp_path / "p.pt")
    parts = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for part, layer in zip(parts, (0, 2), strict=True):
        measure(place, tmp_path, "resid_post", layer, final=sae)
        shutil.move(tmp_path / "t.parquet", part)
    collect(parts, tmp_path / "recipe.parquet")
    collect([tmp_path / "recipe.parquet", parts[0]], tmp_path / "all.parquet")
    layers = pd.read_parquet(tmp_path / "all.parquet").layer
    assert layers[layers.diff() != 0].tolist() == [0, 2, 0]
    assert identities(tmp_path / "all.parquet") == [ID, ID, ID]


def test_the_table_and_the_json_say_the_same_and_name_their_window(place, tmp_path):
    measure(place, tmp_path, "resid_post", 0, final=identity_sae(tmp_path / "p.pt"))
    table = pd.read_parquet(tmp_path / "t.parquet")
    found = json.loads((tmp_path / "t.json").read_text())
    assert [row["metric"] for row in found["metrics"]] == table.metric.tolist()
    assert found["record"] == RECORD
    windows = table.set_index("metric").held_out_tokens
    assert windows["dead"] >= 800 > windows["ce_sae"] > 350
    assert table[table.metric == "ce_sae"].unit.item() == "nats per token"


def test_every_metric_has_a_name_for_people_and_every_headline_an_interval(place, tmp_path):
    measure(place, tmp_path, "resid_post", 0, final=identity_sae(tmp_path / "p.pt", scale=0.9))
    table = pd.read_parquet(tmp_path / "t.parquet").set_index("metric")
    assert set(table.index) == set(OF_EVALUATION)
    for metric in (*OF_TOKENS, *OF_PREDICTIONS):
        assert table.low[metric] <= table.value[metric] <= table.high[metric], metric
    # Every latent or its opposite is active, with decoder rows of norm 0.9 along the axes.
    assert table.value["l0"] == 16 and table.value["activation_rate"] == 0.5
    assert table.value["nearest"] == pytest.approx(0, abs=1e-6)
    x = zarr.open_group(place / "resid_post.zarr")
    kept = x["layer00/site"][:][x["mask"][:]].astype(np.float64)
    assert table.value["importance"] == pytest.approx(0.81 * (kept**2).sum(axis=1).mean(), rel=1e-6)


def test_the_per_latent_table_agrees_with_the_metrics(place, tmp_path):
    dead = identity_sae(tmp_path / "p.pt")
    state = torch.load(dead, weights_only=True)
    state["model_state"]["encoder.bias"][:3] = -1e6  # three latents that never fire
    torch.save(state, dead)
    found = measure(place, tmp_path, "resid_post", 0, final=dead).final
    latents = read_table(tmp_path / "latents.parquet")
    assert latents.latent.tolist() == list(range(32))
    assert latents.density[:3].tolist() == latents.importance[:3].tolist() == [0, 0, 0]
    assert (latents.density[3:] > 0).all() and found["dead"] == 3
    assert latents.density.mean() == pytest.approx(found["activation_rate"])
    assert latents.importance.sum() == pytest.approx(found["importance"], rel=1e-6)
    assert latents.nearest[:3].isna().all() and latents.nearest[3:].notna().all()
    assert set(latents.held_out_tokens) == {len(zarr_tokens(place))}


def test_the_blocks_add_up_to_the_latents(place, tmp_path):
    found = measure(place, tmp_path, "resid_post", 0, final=identity_sae(tmp_path / "p.pt")).final
    blocks = read_table(tmp_path / "blocks.parquet")
    latents = read_table(tmp_path / "latents.parquet")
    assert len(blocks) == 32 and (blocks.tokens > 0).all()
    tokens = blocks.tokens.sum()
    assert tokens == len(zarr_tokens(place))
    assert blocks.active.sum() / tokens == pytest.approx(found["l0"])
    assert np.sum(np.stack(blocks.energy), axis=0) / tokens == pytest.approx(latents.importance.to_numpy(), rel=1e-5)


def zarr_tokens(place) -> np.ndarray:
    group = zarr.open_group(place / "resid_post.zarr")
    return group["tokens"][:][group["mask"][:]]


def test_settled_counts_the_latents_that_are_in_the_final_snapshot(place, tmp_path):
    turned = identity_sae(tmp_path / "turned.pt")
    state = torch.load(turned, weights_only=True)
    decoder = state["model_state"]["decoder.weight"]  # [16, 32]
    decoder[:, :8] = torch.nn.functional.normalize(decoder[:, :8] + decoder[:, 8:16], dim=0)  # cosine 0.71 with two
    torch.save(state, turned)
    table = measure(place, tmp_path, "resid_post", 0, early=turned, final=identity_sae(tmp_path / "p.pt"))
    assert table.early["settled"] == pytest.approx(24 / 32)
    assert table.final["settled"] == 1


EMBEDDED, READ_OUT = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize(
    ("layer", "weight", "value", "words"),
    [
        (2, EMBEDDED, torch.nan, "layer 2: the model gives NaN or infinite activations; try"),
        (2, EMBEDDED, 1e25, "layer 2: activations of 1e[+]25, whose squares float32 does not hold"),
        (0, READ_OUT, torch.nan, "the model gives losses that are NaN or infinite; try"),
        (0, READ_OUT, torch.inf, "the model gives losses that are NaN or infinite; try"),
    ],
)
def test_a_model_that_gives_no_numbers_on_held_out_text_is_named(place, tmp_path, layer, weight, value, words):
    """As on train text: the token that does it may occur in held-out documents alone; or it happens above the site."""
    shutil.copytree(place / "model", tmp_path / "model")
    shutil.copy(place / "provenance.json", tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors[weight][byte_tokenizer()("s").input_ids[0]] = value
    save_file(tensors, weights, metadata={"format": "pt"})
    settings = {"site": "resid_post", "tokens": 800, "patched_tokens": 400, "contexts_per_batch": 8}
    files = tmp_path / "provenance.json", place / "corpus.zarr", tmp_path / "held_out.zarr"
    with pytest.raises(AtlasError, match=words):
        save_held_out(*files, layers=[layer], **settings, model_dtype="float32")
    assert not (tmp_path / "held_out.zarr").exists()
