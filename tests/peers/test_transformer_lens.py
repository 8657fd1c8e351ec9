"""TransformerLens computes what we read: every site of every family, and the restoration model it is converted to."""

import pytest
import torch
from restoration import write_checkpoint
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import (
    convert_gpt2_weights,
    convert_llama_weights,
    convert_neox_weights,
)

from models import random_model
from sae_atlas.base_models.restoration import read_restoration
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.publish.formats.transformer_lens import convert_transformer_lens, load_transformer_lens, verify
from sae_atlas.sites.hooks import capture
from sae_atlas.sites.values import value_bias

SHARED = {"n_layers": 3, "d_model": 32, "n_heads": 2, "d_head": 16, "d_vocab": 64, "n_ctx": 64, "dtype": torch.float64}
FAMILIES = {
    "gpt_neox": (
        convert_neox_weights,
        {
            "d_mlp": 64,
            "act_fn": "gelu",
            "normalization_type": "LN",
            "positional_embedding_type": "rotary",
            "rotary_dim": 4,
            "parallel_attn_mlp": True,
        },
    ),
    "gpt2": (
        convert_gpt2_weights,
        {"d_mlp": 128, "act_fn": "gelu_new", "normalization_type": "LN", "positional_embedding_type": "standard"},
    ),
    "llama": (
        convert_llama_weights,
        {
            "d_mlp": 64,
            "act_fn": "silu",
            "normalization_type": "RMS",
            "positional_embedding_type": "rotary",
            "rotary_dim": 16,
            "n_key_value_heads": 1,
            "gated_mlp": True,
            "final_rms": True,
            "eps": 1e-6,
        },
    ),
}
TOKENS = torch.arange(1, 25).reshape(2, 12)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_sites_are_transformer_lens_hooks(architecture):
    model = random_model(architecture)
    convert, sizes = FAMILIES[architecture]
    config = HookedTransformerConfig(**SHARED, **sizes, device="cpu")
    theirs = HookedTransformer(config)
    theirs.load_state_dict(convert(model, config), strict=False)
    _, cache = theirs.run_with_cache(TOKENS)
    sites = ["resid_pre", "resid_post", "attn_out", "mlp_out"] + ["resid_mid"] * (architecture != "gpt_neox")
    for site in sites:
        with capture(model, site, [0, 1, 2]) as found:
            model(TOKENS)
        for layer in range(3):
            hook = cache[f"blocks.{layer}.hook_{site}"]
            torch.testing.assert_close(found[layer], hook, atol=1e-5, rtol=1e-5, msg=lambda t, s=site: f"{s}: {t}")


def prepared(folder, **sizes):
    """A restoration model, and the provenance of a prepared base model that is it."""
    model = read_restoration(write_checkpoint(folder / "best_model.pt", **sizes))
    model.save_pretrained(folder / "model")
    write_json(folder / "provenance.json", {"path": "model"})
    return model, folder / "provenance.json"


@pytest.mark.parametrize("bias", [True, False])
def test_the_restoration_model_is_converted_and_loads_again(tmp_path, bias):
    model, provenance = prepared(tmp_path, bias=bias)
    convert_transformer_lens(provenance, tmp_path / "tl.pt")
    tokens = torch.arange(3, 20)[None]
    torch.testing.assert_close(
        load_transformer_lens(tmp_path / "tl.pt")(tokens), model(tokens).logits, atol=1e-4, rtol=1e-4
    )


def test_the_first_layer_that_differs_is_named_and_nothing_is_written(tmp_path):
    """A causal copy, which TransformerLens makes unless told, and one with a weight changed in the second block."""
    model, provenance = prepared(tmp_path)
    convert_transformer_lens(provenance, tmp_path / "tl.pt")
    hooked = load_transformer_lens(tmp_path / "tl.pt").double()
    verify(model, hooked, 1e-4)
    hooked.blocks[1].mlp.b_out += 0.01
    with pytest.raises(AtlasError, match=r"layer 1: resid_post differs by 0\.01"):
        verify(model, hooked, 1e-4)
    content = torch.load(tmp_path / "tl.pt", weights_only=True)
    causal = HookedTransformer(HookedTransformerConfig(**content["config"] | {"attention_dir": "causal"}, device="cpu"))
    causal.load_state_dict(content["model_state"], strict=False)
    with pytest.raises(AtlasError, match="layer 0: resid_post differs"):
        verify(model, causal.double(), 1e-4)
    with pytest.raises(AtlasError, match="differs"):
        convert_transformer_lens(provenance, tmp_path / "other.pt", tolerance=-1)
    assert not (tmp_path / "other.pt").exists()


HEADS = {
    "gpt_neox": "in:gpt_neox.layers.{layer}.attention.dense",
    "gpt2": "in:transformer.h.{layer}.attn.c_proj",
    "llama": "in:model.layers.{layer}.self_attn.o_proj",
}


@pytest.mark.parametrize("fold_ln", [False, True])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_heads_with_folded_biases_are_ours_less_what_is_measured(architecture, fold_ln):
    model = random_model(architecture)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.normal_()
    convert, sizes = FAMILIES[architecture]
    config = HookedTransformerConfig(**SHARED, **sizes, device="cpu")
    theirs = HookedTransformer(config)
    settings = {
        "fold_ln": fold_ln,
        "fold_value_biases": True,
        "center_writing_weights": fold_ln,
        "center_unembed": False,
    }
    theirs.load_and_process_state_dict(convert(model, config), **settings)
    _, cache = theirs.run_with_cache(TOKENS)
    site = HEADS[architecture]
    with capture(model, site, [0, 1, 2]) as found:
        model(TOKENS)
    for layer in range(3):
        bias = value_bias(model, site, layer, fold_ln)
        heads = cache[f"blocks.{layer}.attn.hook_z"].flatten(-2)
        torch.testing.assert_close(found[layer] - bias, heads, atol=1e-5, rtol=1e-5)
