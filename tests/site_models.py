"""Small models whose sites the tests look at, and what is read from them."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from models import SIZES
from sae_atlas.sites.hooks import capture

TOKENS = torch.arange(1, 25).reshape(2, 12)
LLAMA = SIZES["llama"] | {"pad_token_id": None}
OTHERS = {  # what stands between a module and the stream: norms, multipliers, a residual inside of the module, flat tokens
    "gemma2": LLAMA | {"head_dim": 16},
    "olmo2": LLAMA,
    "granite": LLAMA | {"residual_multiplier": 0.22},
    "falcon": {key: LLAMA[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    "phi": LLAMA,
    "gpt_neo": {"hidden_size": 32, "num_layers": 3, "num_heads": 2, "attention_types": [[["global"], 3]]},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 2},
    "opt": {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "word_embed_proj_dim": 32},
    "qwen3": LLAMA | {"head_dim": 16},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    "granitemoehybrid": LLAMA | {"residual_multiplier": 0.22, "shared_intermediate_size": 24, "layer_types": ["attention"] * 3}
    | {"num_local_experts": 4, "num_experts_per_tok": 2, "mamba_n_heads": 4, "num_key_value_heads": 2},
    "falcon_h1": LLAMA | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8},
}  # fmt: skip


def other(architecture: str):
    """In float32, with weights so large that a block matters."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=64, **OTHERS[architecture])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.copy_(0.3 * torch.randn_like(weight) + (weight.ndim < 2))
    return model


def captured(model, site, layers=(0, 1, 2)):
    with capture(model, site, list(layers)) as found:
        model(TOKENS)
    return found


def plain(model):
    return model(TOKENS, use_cache=False).logits
