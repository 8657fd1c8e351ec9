"""A module's output, or what goes into it, is a site where it is one activation per token; elsewhere it is refused."""

import pytest
import torch
from families import off
from site_models import LLAMA, captured, other, plain
from transformers import AutoConfig, AutoModelForCausalLM

from models import random_model
from sae_atlas.io.errors import AtlasError
from sae_atlas.sites.hooks import blocks, check_site, patch, point_of, start_at


def test_an_unknown_site_names_the_nearest_modules():
    with pytest.raises(AtlasError, match=r"gpt_neox\.layers\.\{layer\}\.mlp"):
        point_of(random_model("gpt_neox"), "gpt_neox.layers.{layer}.mpl", 0)
    with pytest.raises(AtlasError, match="no layer 3"):
        point_of(random_model("gpt2"), "resid_post", 3)


def test_what_goes_into_a_module_is_a_site():
    """The heads' outputs before they are mixed, of width heads x head_dim; patched, they change attention's answer."""
    model = random_model("llama")
    site = "in:model.layers.{layer}.self_attn.o_proj"
    mixed = captured(model, "attn_out", [1])[1]
    heads = captured(model, site, [1])[1]
    torch.testing.assert_close(blocks(model)[1].self_attn.o_proj(heads), mixed)
    with patch(model, site, 1, torch.zeros_like):
        assert not captured(model, "attn_out", [1])[1].any()


def test_a_module_whose_values_are_not_one_activation_per_token_is_no_site():
    model = other("qwen3")
    with pytest.raises(
        AtlasError, match=r"q_norm holds \[2, 8, 2, 16\] for 2 contexts of 8 tokens; a site has one activation"
    ):
        check_site(model, "model.layers.{layer}.self_attn.q_norm", [0], {})


def test_what_goes_into_a_module_is_found_where_it_is_given_by_name():
    """Llama's attention is called with names alone."""
    model = random_model("llama")
    site = "in:model.layers.{layer}.self_attn"
    read = captured(model, site, [0, 2])[2]
    assert torch.equal(read, captured(model, "model.layers.{layer}.input_layernorm", [0, 2])[2])
    before = captured(model, "attn_out", [1])[1]
    with patch(model, site, 1, lambda value: 2 * value):
        assert not torch.equal(captured(model, "attn_out", [1])[1], before)


def test_a_module_that_is_first_asked_for_inside_a_later_start_is_found():
    """What the modules hold is measured on the model as it is, not on the stream that it was started from."""
    residual = captured(random_model("llama"), "resid_pre", [1])[1]
    model = random_model("llama")
    before = plain(model)
    with start_at(model, 1, residual), patch(model, "model.layers.{layer}.mlp", 1, torch.clone):
        assert off(plain(model), before) < 1e-9
    with start_at(model, 1, residual), patch(model, "in:model.layers.{layer}.mlp", 1, torch.zeros_like):
        assert off(plain(model), before) > 1e-3


def test_a_module_that_is_run_twice_in_a_pass_is_refused():
    model = random_model("llama")
    twice = model.model.layers[0].mlp.up_proj
    model.model.layers[0].mlp.gate_proj = twice
    with pytest.raises(AtlasError, match=r"layers\.0\.mlp\.gate_proj is run 2 times in a pass"):
        check_site(model, "model.layers.{layer}.mlp.gate_proj", [0], {})


def test_a_module_that_is_not_run_is_refused():
    """Mamba computes its convolution from the module's weights."""
    with pytest.raises(AtlasError, match=r"backbone\.layers\.0\.mixer\.conv1d is not run in a pass"):
        check_site(other("mamba"), "backbone.layers.{layer}.mixer.conv1d", [0], {})


def test_channels_are_not_taken_for_tokens():
    """The convolution of Recurrent Gemma gives [batch, channels, context + 3]."""
    sizes = LLAMA | {"lru_width": 32, "head_dim": 16, "block_types": ["recurrent", "recurrent", "attention"]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("recurrent_gemma", vocab_size=64, **sizes)).eval()
    with pytest.raises(AtlasError, match=r"conv_1d holds \[2, 32, 11\] for 2 contexts of 8 tokens"):
        check_site(model, "model.layers.{layer}.temporal_block.conv_1d", [0], {})
