"""Models with random weights: presets, sizes as arguments of transformers' configs, weights drawn from a seed."""

from dataclasses import dataclass

from sae_atlas.io.errors import AtlasError


@dataclass(frozen=True)
class Preset:
    """Blocks, attention heads, width; whether the unembedding is the embedding again."""

    layers: int
    heads: int
    width: int
    tied: bool


# With GPT-2's vocabulary of 50,257 and architecture gpt2: 38.5M (context 512), 124M and 355M (context 1,024) parameters.
PRESETS = {
    "small": Preset(5, 5, 320, tied=False),
    "medium": Preset(12, 12, 768, tied=True),
    "large": Preset(24, 16, 1024, tied=True),
}


def model_sizes(base_model: dict, context: int) -> dict:
    """Arguments of the architecture's transformers config. base_model: a section with `preset` or `sizes`.

    No dropout: what is trained from scratch here reads its text once or a few times. What `sizes` says wins.
    """
    preset = PRESETS.get(base_model.get("preset"))
    if base_model["architecture"] == "gpt2":
        still = {"n_positions": context, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        chosen = preset and {"n_layer": preset.layers, "n_head": preset.heads, "n_embd": preset.width}
    else:
        still = {"max_position_embeddings": context}
        chosen = preset and {
            "num_hidden_layers": preset.layers,
            "num_attention_heads": preset.heads,
            "hidden_size": preset.width,
            "intermediate_size": 4 * preset.width,
        }
    tied = {"tie_word_embeddings": preset.tied} if preset else {}
    return {**still, **tied, **(chosen or {}), **base_model.get("sizes", {})}


def random_model(architecture: str, sizes: dict, tokenizer, seed: int):
    """float32 on the CPU, weights drawn from `seed`; the generator outside is left as it was.

    Raises AtlasError if the sizes make no model.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    try:
        config = AutoConfig.for_model(architecture, **{**ids, **sizes})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (TypeError, ValueError, StrictDataclassError) as error:
        why = str(error).splitlines()[-1].strip()
        raise AtlasError(f"base_model.sizes: no {architecture} has these sizes ({why})") from error
