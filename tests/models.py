"""Small random models of each family, and what stands for a prepared base model."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sae_atlas.io.files import write_json

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


def random_model(architecture: str, vocab_size: int = 64, **sizes):
    """A model in float64, so that comparisons are sharp."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=vocab_size, **SIZES[architecture], **sizes)
    return AutoModelForCausalLM.from_config(config).double().eval().requires_grad_(False)


def write_tokenizer(folder: Path, tokenizer) -> Path:
    """The provenance of a prepared base model that is only a tokenizer."""
    tokenizer.save_pretrained(folder / "tokenizer")
    write_json(folder / "provenance.json", {"path": "tokenizer"})
    return folder / "provenance.json"
