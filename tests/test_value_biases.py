"""SAEs of attention's heads that were trained without the biases of their values are measured with them."""

import forged
import pytest
import torch
from forged import LAYER
from random_saes import D_IN, activations, random_sae
from site_models import other
from transformers import AutoConfig, AutoModelForCausalLM

import sae_atlas
from models import random_model
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.publish.formats import saelens
from sae_atlas.publish.formats.import_sae import import_sae
from sae_atlas.publish.formats.load import export, load_sae
from sae_atlas.saes.sae import Sae
from sae_atlas.sites.hooks import capture
from sae_atlas.sites.measure import measure
from sae_atlas.sites.values import value_bias

GPT2 = "in:transformer.h.{layer}.attn.c_proj"
HOOK = f"blocks.{LAYER}.attn.hook_z"
TOKENS = torch.arange(20).view(2, 10)


def with_biases(model):
    """The model with biases that are not 0, of its norms, too."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data = torch.randn(weight.shape, generator=generator).to(weight)
    return model


def gpt2():
    return with_biases(random_model("gpt2"))


def test_of_gpt2_it_is_the_last_third_of_one_projections_bias():
    """And, where TransformerLens folded the norm, what the values make of the norm's bias."""
    model = gpt2()
    block, d = model.transformer.h[1], 32
    of_values = block.attn.c_attn.bias[2 * d :]
    of_norm = block.ln_1.bias @ block.attn.c_attn.weight[:, 2 * d :]
    for with_norm, expected in ((False, of_values), (True, of_values + of_norm)):
        torch.testing.assert_close(value_bias(model, GPT2, 1, with_norm), expected.float())


def test_heads_less_their_value_biases_are_those_of_values_without():
    with_them, without = gpt2(), gpt2()
    without.transformer.h[1].attn.c_attn.bias.data[64:] = 0
    heads = []
    for model in (with_them, without):
        with capture(model, GPT2, [1]) as found:
            model(TOKENS)
        heads.append(found[1])
    torch.testing.assert_close(heads[0] - value_bias(with_them, GPT2, 1, False), heads[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "site", "bias"),
    [
        (
            with_biases(random_model("llama", attention_bias=True)),  # one head of values for two of queries
            "in:model.layers.{layer}.self_attn.o_proj",
            lambda model: model.model.layers[1].self_attn.v_proj.bias.repeat(2),
        ),
        (
            with_biases(random_model("gpt_neox")),  # queries, keys and values of a head lie together
            "in:gpt_neox.layers.{layer}.attention.dense",
            lambda model: model.gpt_neox.layers[1].attention.query_key_value.bias.view(2, 3, 16)[:, 2].flatten(),
        ),
        (
            other("opt"),
            "in:model.decoder.layers.{layer}.self_attn.out_proj",
            lambda model: model.model.decoder.layers[1].self_attn.v_proj.bias,
        ),
        (random_model("llama"), "in:model.layers.{layer}.self_attn.o_proj", lambda _: torch.zeros(32)),
    ],
    ids=["llama", "gpt_neox", "opt", "none"],
)
def test_whatever_a_family_calls_them(model, site, bias):
    torch.testing.assert_close(value_bias(model, site, 1, False), bias(model).float())


def test_where_weights_do_not_add_up_to_1_it_is_one_line():
    """gpt-oss gives a share of them to no token."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    sizes |= {
        "intermediate_size": 32,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "vocab_size": 64,
        "pad_token_id": None,
    }
    model = with_biases(AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_oss", **sizes)).eval())
    with pytest.raises(
        AtlasError, match=r"layers\.1\.self_attn\.o_proj give different values at different tokens"
    ) as told:
        value_bias(model, "in:model.layers.{layer}.self_attn.o_proj", 1, False)
    assert "\n" not in str(told.value)


@pytest.fixture(scope="module")
def model():
    config = AutoConfig.for_model("gpt2", n_embd=D_IN, n_layer=LAYER + 1, n_head=2, vocab_size=64)
    return with_biases(AutoModelForCausalLM.from_config(config).eval().requires_grad_(False))


@pytest.fixture(scope="module")
def provenance(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base_model")
    model.save_pretrained(folder / "model")
    about = {"path": "model", "source": "hub openai-community/gpt2", "d_model": D_IN, "sites": measure(model).plain()}
    write_json(folder / "provenance.json", about)
    return folder / "provenance.json"


def taken(provenance, tmp_path, file, kind, site=GPT2) -> Sae:
    recipe = {"architecture": "relu", "expansion": 4}
    recipe |= {"pretrained": {"source": "local", "format": kind, "path": str(file.parent)}}
    import_sae(provenance, tmp_path / "sae.pt", recipe, str(file), LAYER, 9, "gpt2-small", site)
    return load_sae(tmp_path / "sae.pt")


def assert_reads_with(bias, sae, published):
    x = activations()
    torch.testing.assert_close(sae.encode(x + bias), published.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae(x + bias), published(x) + bias, atol=1e-4, rtol=1e-4)
    assert bias.norm() > 1 and sae.config["activations"]["site"] == GPT2 and "folded" not in sae.config["activations"]


def test_an_sae_that_reads_heads_without_them_is_given_them(model, provenance, tmp_path):
    file = forged.connor_rob_hook_z(tmp_path / "release")
    sae = taken(provenance, tmp_path, file, "connor_rob_hook_z")
    assert_reads_with(value_bias(model, GPT2, LAYER, True), sae, load_sae(file))
    renamed = file.rename(file.with_name("mine.pt"))
    with pytest.raises(AtlasError, match=r"its site is blocks\.\{layer\}\.attn\.hook_z, the config's attn_out"):
        taken(provenance, tmp_path, renamed, "connor_rob_hook_z", "attn_out")


def pair(folder, **settings):
    saelens.write(
        folder,
        random_sae("relu"),
        {"hook_name": HOOK, "model_name": "gpt2-small", "model_from_pretrained_kwargs": settings},
    )
    return folder


@pytest.mark.parametrize("fold_ln", [False, True])
def test_saelens_says_which_were_folded(model, provenance, tmp_path, fold_ln):
    folder = pair(tmp_path / "pair", fold_value_biases=True, fold_ln=fold_ln, center_writing_weights=True)
    sae = taken(provenance, tmp_path, folder, "saelens")
    assert_reads_with(value_bias(model, GPT2, LAYER, fold_ln), sae, random_sae("relu"))
    assert sae.token_norm is None  # heads are not of the stream, whose mean was taken out


def test_heads_as_the_model_gives_them_stay_as_they_are(provenance, tmp_path):
    sae, x = taken(provenance, tmp_path, pair(tmp_path / "pair", fold_ln=True), "saelens"), activations()
    torch.testing.assert_close(sae(x), random_sae("relu")(x))


def test_heads_in_other_directions_are_refused(tmp_path):
    with pytest.raises(AtlasError, match="refactor_factored_attn_matrices True is not supported"):
        load_sae(pair(tmp_path, refactor_factored_attn_matrices=True))


def test_what_reads_heads_without_them_says_so_wherever_it_goes(model, tmp_path):
    file = forged.connor_rob_hook_z(tmp_path / "release")
    for site in (None, GPT2):
        with pytest.raises(AtlasError, match="reads the heads without the biases of their values"):
            sae_atlas.patch(model, load_sae(file), site=site).__enter__()
    folded = load_sae(file).config["activations"]["folded"]
    for kind, path in (("saelens", "out"), ("safetensors", "out/sae.safetensors")):
        export(file, kind, tmp_path / "out")
        assert load_sae(tmp_path / path).config["activations"]["folded"] == folded
    with pytest.raises(AtlasError, match="dictionary_learning cannot say that an SAE reads heads without"):
        export(file, "dictionary_learning", tmp_path / "none")
