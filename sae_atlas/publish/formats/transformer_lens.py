"""A RestorationModel as TransformerLens has it: a state for HookedTransformer, checked against the model itself."""

from pathlib import Path

import torch
from torch import Tensor

from sae_atlas.base_models.load import load
from sae_atlas.base_models.restoration import RestorationModel
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.sites.hooks import capture

TOLERANCE = 1e-4  # largest difference of a logit, or of a dimension of the stream
LETTERS = (("w", "weight"), ("b", "bias"))  # of a norm: TransformerLens' name and ours
SEED = 0  # of the characters that both models read


def convert_transformer_lens(base_model: str | Path, model: str | Path, tolerance: float = TOLERANCE) -> None:
    """Write `model`, {config, model_state} of the prepared base model, once it is verified.

    It loads with `weights_only` and by load_transformer_lens.

    Both models read the same random characters, at full length and at half of it, in float64: what differs is then the
    conversion. Raises AtlasError with the first layer whose stream differs by more than `tolerance`, and writes nothing;
    also where TransformerLens is not installed.
    """
    ours, _ = load(base_model, "float32", "cpu")
    content = {"config": _config(ours.config), "model_state": _state(ours)}
    verify(ours, _hooked(content, torch.float64), tolerance)
    with atomic(model) as partial:
        torch.save(content, partial)


def load_transformer_lens(file: str | Path):
    """The HookedTransformer that convert_transformer_lens wrote, in evaluation mode."""
    return _hooked(torch.load(file, map_location="cpu", weights_only=True), torch.float32)


def verify(model: RestorationModel, hooked, tolerance: float) -> None:
    """Raises AtlasError unless `hook_resid_post` of every layer and the logits agree with the model's, in float64."""
    ours = RestorationModel(model.config).double().eval().requires_grad_(False)
    ours.load_state_dict(model.state_dict())
    longest, layers = model.config.max_position_embeddings, model.config.num_hidden_layers
    generator = torch.Generator().manual_seed(SEED)
    for length in (longest, (longest + 1) // 2):
        tokens = torch.randint(model.config.vocab_size, (1, length), generator=generator)
        with torch.inference_mode(), capture(ours, "resid_post", list(range(layers)), stop=False) as streams:
            logits = ours(tokens).logits
        names = [f"blocks.{layer}.hook_resid_post" for layer in range(layers)]
        with torch.inference_mode():
            theirs, cache = hooked.run_with_cache(tokens, names_filter=names)
        pairs = [(f"layer {layer}: resid_post", streams[layer], cache[name]) for layer, name in enumerate(names)]
        for what, expected, hooked_values in [*pairs, ("the logits", logits, theirs)]:
            off = float((expected - hooked_values).abs().max())
            if not off <= tolerance:
                raise AtlasError(
                    f"convert_transformer_lens: {what} differs by {off:.2g} on {length} characters, more than {tolerance:g}; "
                    "this TransformerLens computes another model. Nothing was written"
                )


def _hooked(content: dict, dtype: torch.dtype):
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError as error:
        raise AtlasError(
            "convert_transformer_lens: TransformerLens is not installed; run `pip install transformer-lens==3.9.0`"
        ) from error
    hooked = HookedTransformer(
        HookedTransformerConfig(**content["config"], dtype=dtype, device="cpu", init_weights=False)
    )
    missing = hooked.load_state_dict(content["model_state"], strict=False)
    parameters = {name for name, _ in hooked.named_parameters()}
    if missing.unexpected_keys or parameters & set(missing.missing_keys):
        raise AtlasError("convert_transformer_lens: this TransformerLens has other parameters; install 3.9.0")
    return hooked.eval().requires_grad_(False)


def _config(config) -> dict:
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "d_head": config.hidden_size // config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "d_vocab": config.vocab_size,
        "n_ctx": config.max_position_embeddings,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "eps": 1e-5,
        "attention_dir": "bidirectional",  # TransformerLens is causal unless told
        "positional_embedding_type": "rotary",
        "rotary_dim": config.hidden_size // config.num_attention_heads,
        "rotary_base": config.rotary_base,
        "default_prepend_bos": False,
    }


def _state(model: RestorationModel) -> dict[str, Tensor]:
    """Heads apart, products from the left. A bias that the model lacks is zero."""
    heads = model.config.num_attention_heads
    state = {
        "embed.W_E": model.embed.weight,
        "ln_final.w": model.final_ln.weight,
        "ln_final.b": model.final_ln.bias,
        "unembed.W_U": model.head.weight.T,
        "unembed.b_U": model.head.bias,
    }
    for number, block in enumerate(model.layers):
        attention, zero = block.attn, torch.zeros(model.config.hidden_size)
        parts = {
            f"{norm}.{letter}": getattr(getattr(block, norm), long)
            for norm in ("ln1", "ln2")
            for letter, long in LETTERS
        }
        for letter, linear in (("Q", attention.q_proj), ("K", attention.k_proj), ("V", attention.v_proj)):
            bias = zero if linear.bias is None else linear.bias
            parts[f"attn.W_{letter}"] = linear.weight.unflatten(0, (heads, -1)).transpose(1, 2)
            parts[f"attn.b_{letter}"] = bias.unflatten(0, (heads, -1))
        parts["attn.W_O"] = attention.out_proj.weight.T.unflatten(0, (heads, -1))
        parts["attn.b_O"] = zero if attention.out_proj.bias is None else attention.out_proj.bias
        for name, linear in (("in", block.ff[0]), ("out", block.ff[2])):
            parts |= {f"mlp.W_{name}": linear.weight.T, f"mlp.b_{name}": linear.bias}
        state |= {f"blocks.{number}.{name}": tensor for name, tensor in parts.items()}
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in state.items()}
