"""What is written in a format reads back as the same SAE; a file that means something else is refused in one line."""

import json
import os

import pytest
import torch
from random_saes import (
    ARCHITECTURES,
    D_IN,
    D_SAE,
    activations,
    random_checkpoint,
    random_sae,
)
from rounding import assert_same_function
from safetensors.torch import load_file, save_file

from models import random_model
from sae_atlas.__main__ import main
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, sha256, write_json
from sae_atlas.publish.formats import dictionary_learning, one_file, saelens, sparsify
from sae_atlas.publish.formats.hooks import hook_name, module_path, parse_hook
from sae_atlas.publish.formats.load import FORMATS, load_sae, read
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.checkpoint import save_tensors
from sae_atlas.sites.measure import measure

WRITERS = {"saelens": saelens, "sparsify": sparsify, "dictionary_learning": dictionary_learning}


def same_weights(sae, other) -> bool:
    names = ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"] + ["W_skip"] * (sae.W_skip is not None)
    return all(torch.equal(getattr(sae, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_written_sae_reads_back_the_same(tmp_path, kind, architecture):
    sae = random_sae(architecture)
    if kind == "sparsify" and architecture != "topk":
        with pytest.raises(AtlasError, match=f"sparsify has TopK only, this SAE is {architecture}"):
            sparsify.write(tmp_path / "layers.3", sae, metadata(sae.config))
        return
    if kind == "dictionary_learning" and architecture == "matching_pursuit":
        with pytest.raises(AtlasError, match="dictionary_learning has no matching pursuit; choose saelens"):
            dictionary_learning.write(tmp_path / "layers.3", sae, metadata(sae.config))
        return
    WRITERS[kind].write(tmp_path / "layers.3", sae, metadata(sae.config))
    back = load_sae(tmp_path / "layers.3")
    assert_same_function(back, sae, activations())
    assert back.k == sae.k and back.config["activations"]["layer"] == 3 and back.config["tokens"] == 120_000


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_file_holds_an_sae_with_its_config(tmp_path, architecture):
    sae = random_sae(architecture)
    one_file.write(tmp_path, sae, metadata(sae.config))
    back = load_sae(tmp_path / "sae.safetensors")
    assert same_weights(sae, back)
    assert back.config["recipe"] == sae.config["recipe"] and back.stats == sae.stats


def erdos(path, dtype=torch.bfloat16, **changes):
    """A file of the published runs; returns its model as that code computes it."""
    generator = torch.Generator().manual_seed(0)
    state = {
        "b_pre": torch.randn(D_IN, generator=generator),
        "encoder.weight": torch.randn(D_SAE, D_IN, generator=generator),
        "encoder.bias": torch.randn(D_SAE, generator=generator),
        "decoder.weight": torch.randn(D_IN, D_SAE, generator=generator),
        "decoder.bias": torch.randn(D_IN, generator=generator),
    }
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    config = {"d_model": D_IN, "d_sae": D_SAE, "expansion": 4, "l1_coeff": 3e-4, "lr": 3e-4, "target_layer": 3}
    config |= {"tokens_seen": 50_003_968, "model_name": "EleutherAI/pythia-410m"}
    value = {"model_state": state, "optimizer_state": {"step": 9}, "config": config, "stats": [{"batch": 0}]}
    for key, change in changes.items():
        value["model_state" if key not in value else key] |= {key: change} if key not in value else change
    save_tensors(path, value)
    W_e, b_e, W_d, b_d, b_pre = (
        state[name].float() for name in ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "b_pre")
    )

    def encode(x):
        return ((x - b_pre) @ W_e.T + b_e).relu()

    return encode, lambda x: encode(x) @ W_d.T + b_d + b_pre


def test_the_published_runs_encode_with_one_bias_and_decode_with_two(tmp_path):
    encode, rebuild = erdos(tmp_path / "sae_layer03_50M.pt")
    sae, x = load_sae(tmp_path / "sae_layer03_50M.pt"), activations()
    torch.testing.assert_close(sae.encode(x), encode(x), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sae(x), rebuild(x), atol=1e-4, rtol=1e-5)
    assert sae.config["activations"] == {
        "base_model": {"source": "EleutherAI/pythia-410m"},
        "site": "resid_post",
        "layer": 3,
    }
    assert sae.W_enc.dtype == torch.float32 and sae.config["tokens"] == 50_003_968


def dictionary(folder, kind, tensors, **trainer):
    save_tensors(folder / "ae.pt", tensors)
    write_json(folder / "config.json", {"trainer": {"dict_class": kind, "layer": 3, **trainer}})
    return folder


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"encoder.weight": (D_SAE, D_IN), "encoder.bias": (D_SAE,), "decoder.weight": (D_IN, D_SAE)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {
        "b": torch.randn(D_IN, generator=generator)
    }


def test_classes_of_dictionary_learning_that_we_do_not_write(tmp_path):
    """Each by that library's own formula."""
    x, w = activations(), weights()
    linear = {name: tensor for name, tensor in w.items() if name != "b"}
    plain = {"W_enc": w["encoder.weight"].T.contiguous(), "b_enc": w["encoder.bias"]}
    plain |= {"W_dec": w["decoder.weight"].T.contiguous(), "b_dec": w["b"]}
    z = (x - w["b"]) @ w["encoder.weight"].T + w["encoder.bias"]
    limits = {"k": torch.tensor(5, dtype=torch.int), "threshold": torch.tensor(9.0)}
    above = torch.where(z > 9, z, 0)
    found = {
        "AutoEncoder": (linear | {"bias": w["b"]}, z.relu()),
        "BatchTopKSAE": (linear | {"b_dec": w["b"]} | limits, above),
        "MatryoshkaBatchTopKSAE": (plain | limits | {"group_sizes": torch.tensor([16, 48])}, above),
    }
    u, gate = (x - w["b"]) @ w["encoder.weight"].T, torch.linspace(-9, 9, D_SAE)
    gated = {name: linear[name] for name in ("encoder.weight", "decoder.weight")} | {"decoder_bias": w["b"]}
    gated |= {"r_mag": gate / 9, "gate_bias": gate, "mag_bias": w["encoder.bias"]}
    found["GatedAutoEncoder"] = (gated, (u + gate > 0) * ((gate / 9).exp() * u + w["encoder.bias"]).relu())
    for kind, (tensors, latents) in found.items():
        sae = load_sae(dictionary(tmp_path / kind, kind, tensors, k=5))
        torch.testing.assert_close(sae.encode(x), latents, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(sae.decode(latents), latents @ w["decoder.weight"].T + w["b"])


def test_saelens_configs_that_change_what_weights_mean(tmp_path):
    x, sae = activations(), random_sae("relu")

    def altered(name, tensors=(), **changes):
        saelens.write(tmp_path / "a", random_sae(name), {})
        write_json(tmp_path / "a" / "cfg.json", read_json(tmp_path / "a" / "cfg.json") | changes)
        path = tmp_path / "a" / "sae_weights.safetensors"
        save_file(load_file(path) | dict(tensors), path)
        return tmp_path / "a"

    plain = load_sae(altered("relu", apply_b_dec_to_input=False))
    torch.testing.assert_close(plain.encode(x), (x @ sae.W_enc + sae.b_enc).relu(), atol=1e-4, rtol=1e-4)
    norms = torch.linspace(0.5, 2, D_SAE)
    topk = random_sae("topk")
    decoder = topk.W_dec * norms[:, None]
    rescaled = load_sae(altered("topk", {"W_dec": decoder}, rescale_acts_by_decoder_norm=True))
    z = ((x - topk.b_dec) @ topk.W_enc + topk.b_enc) * norms
    torch.testing.assert_close(rescaled.encode(x).sum(-1), z.topk(5).values.relu().sum(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rescaled.W_dec, decoder / norms[:, None])
    for change in (
        {"normalize_activations": "covariance_whitening"},
        {"reshape_activations": "hook_z"},
        {"architecture": "tpk"},
    ):
        with pytest.raises(AtlasError, match=rf"cfg.json: {next(iter(change))} .* is not supported"):
            load_sae(altered("topk", **change))


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def spoil(kind, folder, how):
    """A file of the format, spoilt; returns its path."""
    if kind == "erdos":
        erdos(folder / "sae_layer03_50M.pt", **how(torch.zeros(D_SAE, D_IN)))
        return folder / "sae_layer03_50M.pt"
    WRITERS[kind].write(folder, random_sae("topk"), {})
    path = folder / WRITERS[kind].FILES[1]
    if path.suffix == ".pt":
        save_tensors(path, torch.load(path, weights_only=True) | how(torch.zeros(D_SAE, D_IN)))
    else:
        save_file(load_file(path) | how(torch.zeros(D_SAE, D_IN)), path)
    return folder


def test_what_changes_the_latents_is_refused_where_it_is_not_known(tmp_path):
    """sparsify's `signed` keeps the largest magnitudes; its `multi_topk` is a loss, and changes nothing afterwards."""
    sae = random_sae("topk")
    sparsify.write(tmp_path / "layers.3", sae, metadata(sae.config))
    file = tmp_path / "layers.3" / sparsify.FILES[0]
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"multi_topk": True}))
    assert sparsify.read(tmp_path / "layers.3")["config"]["recipe"]["k"] == sae.k
    file.write_text(json.dumps(config | {"signed": True}))
    with pytest.raises(AtlasError, match="signed True is not supported"):
        sparsify.read(tmp_path / "layers.3")


ENCODER = {"saelens": "W_enc", "sparsify": "encoder.weight", "dictionary_learning": "encoder.weight"} | {
    "erdos": "encoder.weight"
}


@pytest.mark.parametrize("kind", ENCODER)
def test_wrong_shapes_and_unknown_tensors_are_one_line(tmp_path, kind):
    name = ENCODER[kind]
    swapped = spoil(kind, tmp_path / "a", lambda like: {name: (like if kind == "saelens" else like.T).contiguous()})
    unknown = spoil(kind, tmp_path / "b", lambda like: {"W_skip": like})
    wrong = spoil(kind, tmp_path / "c", lambda like: {name: like[:-1, :-1].contiguous()})
    nan = spoil(kind, tmp_path / "d", lambda like: {name: (like.T if kind == "saelens" else like).contiguous() / 0})
    for path, words in (
        (swapped, f"{name} has shape .* encoder and decoder are swapped or transposed"),
        (unknown, "unknown tensor `W_skip`"),
        (wrong, f"{name} has shape .* expected"),
        (nan, f"{name} holds values that are not finite"),
    ):
        with pytest.raises(AtlasError, match=words) as error:
            read(path, kind)
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_missing_tensor_an_unknown_key_and_sizes_that_disagree_are_named(tmp_path):
    erdos(tmp_path / "a.pt", config={"d_sae": 32})
    with pytest.raises(AtlasError, match=r"config\.d_sae is 32, the weights have 64"):
        load_sae(tmp_path / "a.pt")
    save_tensors(tmp_path / "b.pt", {"model_state": {}, "config": {}, "wat": 1})
    with pytest.raises(AtlasError, match="unknown key `wat`"):
        load_sae(tmp_path / "b.pt")
    save_tensors(tmp_path / "c.pt", {"model_state": {"b_pre": torch.zeros(3)}, "config": {}})
    with pytest.raises(AtlasError, match=r"has no tensor `encoder\.weight`"):
        load_sae(tmp_path / "c.pt")
    dictionary(tmp_path / "d", "AutoEncoderTopKK", {})
    with pytest.raises(AtlasError, match="did you mean `AutoEncoderTopK`"):
        load_sae(tmp_path / "d")
    (tmp_path / "e").mkdir()
    with pytest.raises(AtlasError, match="holds no SAE"):
        load_sae(tmp_path / "e")


def test_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state": Code(), "config": {}}, "a.pt")
    dictionary(tmp_path / "d", "AutoEncoder", {})
    torch.save(Code(), "d/ae.pt")
    for path in ("a.pt", "d"):
        with pytest.raises(AtlasError, match="may be code and is not run"):
            load_sae(path)
    assert not (tmp_path / "ran").exists()


def test_a_file_other_than_the_published_one_is_refused(tmp_path):
    checkpoints.save(tmp_path / "model.pt", **random_checkpoint("topk"))
    write_json(tmp_path / "config.json", {"files_sha256": {"model.pt": sha256(tmp_path / "model.pt")}})
    assert same_weights(random_sae("topk"), load_sae(tmp_path))
    other = random_checkpoint("topk")
    other["model_state"]["encoder.bias"][0] += 1
    checkpoints.save(tmp_path / "model.pt", **other)
    with pytest.raises(AtlasError, match=r"model\.pt: is not the file that was published here"):
        load_sae(tmp_path)
    checkpoints.save(tmp_path / "r" / "sae_layer03_final.pt", **other)
    for lines, problem in (
        (f"{'0' * 64}  sae_layer03_final.pt\n", "is not the file that was published here"),
        (f"{'0' * 64} *sae_layer03_final.pt\n", "is not the file that was published here"),
        ("garbage\n", "line 1 is no sha256 and name"),
    ):
        (tmp_path / "r" / "SHA256SUMS").write_text(lines)
        with pytest.raises(AtlasError, match=problem):
            load_sae(tmp_path / "r" / "sae_layer03_final.pt")


def test_an_sae_of_others_can_be_exported_without_metadata(tmp_path, monkeypatch):
    sparsify.write(tmp_path / "theirs", random_sae("topk"), {})
    config = read_json(tmp_path / "theirs/cfg.json")
    del config["metadata"]
    write_json(tmp_path / "theirs/cfg.json", config)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["export", "~/theirs", "safetensors", str(tmp_path / "out")]) == 0
    assert same_weights(random_sae("topk"), load_sae(next((tmp_path / "out").iterdir())))


def test_metadata_say_only_what_is_known():
    config = random_sae("topk").config
    about = metadata({**config, "activations": {**config["activations"], "layer": None}})
    assert about["site"] and "hook_name" not in about


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out"])
def test_hooks_have_the_names_others_use(site):
    assert parse_hook(hook_name(site, 12)) == (site, 12)


def test_module_paths():
    neox, gpt2, llama = (measure(random_model(kind)).plain() for kind in ("gpt_neox", "gpt2", "llama"))
    assert module_path(neox, "resid_post", 2) == "gpt_neox.layers.2"
    assert (
        module_path(neox, "mlp_in", 2) == "gpt_neox.layers.2.post_attention_layernorm"
    )  # the other norm gives the same
    assert module_path(neox, "resid_pre", 2) == "gpt_neox.layers.1" and module_path(neox, "resid_pre", 0) is None
    assert module_path(gpt2, "attn_out", 2) == "transformer.h.2.attn"
    assert module_path(gpt2, "resid_mid", 2) is None  # no module gives it
    assert module_path(gpt2, "mlp_in", 2) == "transformer.h.2.ln_2"
    assert module_path(llama, "mlp_out", 2) == "model.layers.2.mlp"
    assert module_path(llama, "model.layers.{layer}.mlp.up_proj", 2) == "model.layers.2.mlp.up_proj"
    assert module_path(None, "resid_post", 2) is None  # prepared before sites were measured
    assert parse_hook("blocks.3.hook_mlp_in") != ("mlp_in", 3)  # TransformerLens' is the stream before the norm
    assert parse_hook("gpt_neox.layers.3") == ("resid_post", 3)
    assert parse_hook("layers.3.mlp") == ("layers.{layer}.mlp", 3)  # whether that is mlp_out is the model's affair
    assert parse_hook("model.layers.3.mlp.up_proj") == ("model.layers.{layer}.mlp.up_proj", 3)
    assert parse_hook("in:gpt_neox.layers.3.mlp") == ("in:gpt_neox.layers.{layer}.mlp", 3)
    assert parse_hook("embedding") is None


def test_a_published_pair_says_where_it_belongs(tmp_path):
    sae = random_sae("jumprelu")
    saelens.write(tmp_path, sae, metadata(sae.config))
    found = json.loads((tmp_path / "cfg.json").read_text())
    assert found["architecture"] == "jumprelu" and found["normalize_activations"] == "none"
    assert found["metadata"]["hook_name"] == "blocks.3.hook_resid_post"
    assert found["metadata"]["model_name"] == "owner/base-1b"
    assert set(FORMATS) >= set(WRITERS)
