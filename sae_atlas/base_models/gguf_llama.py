"""A Llama-family GGUF file as a transformers model and tokenizer, through the `gguf` package alone.

transformers reads GGUF too, but marks what it read as quantised and refuses to save it.
"""

from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = {  # GGUF tensor -> transformers parameter
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # token type of special tokens


def read_model(file: Path) -> LlamaForCausalLM:
    """The model with its quantised tensors dequantised to bfloat16, which holds 4-bit values times a scale closely."""
    reader = GGUFReader(file)
    config = _config(reader)
    state = {}
    for tensor in reader.tensors:
        name, weight = _parameter(tensor.name), dequantize(tensor.data, tensor.tensor_type)
        if ".q_proj." in name:
            weight = _undo_rotary_order(weight, config.num_attention_heads)
        elif ".k_proj." in name:
            weight = _undo_rotary_order(weight, config.num_key_value_heads)
        state[name] = torch.from_numpy(np.array(weight)).to(torch.bfloat16)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(state)  # strict: every parameter is there, nothing is left over
    return model


def read_config(file: Path) -> LlamaConfig:
    """The model's sizes alone."""
    return _config(GGUFReader(file))


def read_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer in the file. Id 0 (`<|endoftext|>`) begins documents; none is added by itself."""
    reader = GGUFReader(file)
    tokens, merges = _field(reader, "tokenizer.ggml.tokens"), _field(reader, "tokenizer.ggml.merges")
    types = _field(reader, "tokenizer.ggml.token_type")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[0],
        eos_token=tokens[0],
        unk_token=tokens[0],
        clean_up_tokenization_spaces=False,
        chat_template=_field(reader, "tokenizer.chat_template"),
    )


def _config(reader: GGUFReader) -> LlamaConfig:
    def value(key):
        return _field(reader, f"llama.{key}")

    return LlamaConfig(
        vocab_size=value("vocab_size"),
        hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"),
        max_position_embeddings=value("context_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("rope.freq_base")},
        tie_word_embeddings=not any(tensor.name == "output.weight" for tensor in reader.tensors),
        bos_token_id=0,
        eos_token_id=0,
        dtype="bfloat16",
    )


def _field(reader: GGUFReader, key: str):
    return reader.fields[key].contents()


def _parameter(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
    return f"{NAMES[parts[0]]}.weight"


def _undo_rotary_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF interleaves the two halves of a head's rotary dimensions; transformers keeps them apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
