"""What a norm does after it has normalised is measured on the norm, whatever its family calls its weights."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sae_atlas.io.errors import AtlasError
from sae_atlas.sites.hooks import capture_sites
from sae_atlas.sites.norms import norm_weights

D = 16
SIZES = {
    "hidden_size": D,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
}
# family -> (the norm before the MLP, what it adds to its weights)
FAMILIES = {
    "llama": ("model.layers.1.post_attention_layernorm", 0),
    "gemma2": ("model.layers.1.pre_feedforward_layernorm", 1),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_of_rms_norms(family):
    path, added = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES)).eval()
    weight = torch.linspace(-1.5, 2, D)
    model.get_submodule(path).weight.data = weight - added
    scale, shift = norm_weights(model, 1)
    torch.testing.assert_close(scale, weight)
    assert not shift.any()
    with torch.inference_mode(), capture_sites(model, ["resid_mid", "mlp_in"], [1]) as values:
        model(torch.arange(20).view(2, 10))
    stream = values["resid_mid"][1]
    normalised = torch.nn.functional.rms_norm(stream, (D,), eps=model.config.rms_norm_eps)
    torch.testing.assert_close(scale * normalised, values["mlp_in"][1])


def test_of_a_layer_norm():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=D, n_layer=2, n_head=2, vocab_size=50))
    norm = model.eval().get_submodule("transformer.h.1.ln_2")
    norm.weight.data, norm.bias.data = torch.linspace(1, 2, D), torch.linspace(-1, 1, D)
    scale, shift = norm_weights(model, 1)
    torch.testing.assert_close(scale, norm.weight.data)
    torch.testing.assert_close(shift, norm.bias.data)


def test_what_cannot_be_divided_out_is_one_line():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES)).eval()
    norm = model.get_submodule("model.layers.1.post_attention_layernorm")
    norm.weight.data[3] = 0
    with pytest.raises(AtlasError, match="multiplies by 0, so that what it normalised cannot be had from mlp_in"):
        norm_weights(model, 1)
    norm.weight.data[3] = 1
    norm.forward = torch.tanh
    with pytest.raises(
        AtlasError, match=r"model\.layers\.1\.post_attention_layernorm, which gives mlp_in, is no RMS norm"
    ):
        norm_weights(model, 1)
