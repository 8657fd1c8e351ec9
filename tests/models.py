"""Small random models of each family."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2},
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
    },
}


def random_model(architecture: str, **sizes):
    """A model in float64, so that comparisons are sharp."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=64, **SIZES[architecture], **sizes)
    return AutoModelForCausalLM.from_config(config).double().eval().requires_grad_(False)
