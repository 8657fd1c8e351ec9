"""Sizes of the base model before it is there: enough to count arithmetic and bytes. From its config alone, without torch."""

from dataclasses import dataclass
from pathlib import Path

from sae_atlas.config.layers import LAYERS, WIDTHS, model_config, read_config_file, text_part
from sae_atlas.io.errors import AtlasError
from sae_atlas.own_arrays.files import find_layers

# Families whose MLP is two matrices. In all later ones it is gated: three.
UNGATED = ("bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "phi", "restoration",
           "starcoder2")  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Weights are those in matrix products: a token costs 2 FLOPs for each. Of saved activations there are none, and the
    vocabulary are their rows.
    """

    n_layers: int
    d_model: int
    vocabulary: int
    block_weights: int  # of one block
    parameters: int
    value_bytes: int  # of one stored parameter

    def forward(self, blocks: float, context: int, head: bool) -> float:
        """FLOPs of a token through so many blocks: products, attention over the whole context, and the logits if `head`.

        2 per weight; 4 x context x d_model for the scores and the mix of attention (every key counts, as it is computed).
        """
        block = 2 * self.block_weights + 4 * context * self.d_model
        return blocks * block + (2 * self.vocabulary * self.d_model if head else 0)


# Of Pythia-1.4B: what rules ask for where a model's sizes are not at hand before the run.
UNKNOWN = Shape(24, 2048, 50304, 12 * 2048**2, 1_414_647_808, 2)


def read_shape(base_model: dict, prepared: str | Path, at_hand: bool = False) -> Shape:
    """Of the config section `base_model`; from the folder `prepared` if the model is there already.

    at_hand: see config.layers.model_config. Raises AtlasError if the model's config cannot be had or does not say its sizes.
    """
    if base_model["source"] == "synthetic":
        drawn = base_model["generator"]
        return Shape(drawn["layers"], drawn["d"], 2**32, 0, 0, 0)  # rows are numbered, as far as an id goes
    if base_model["source"] == "activations":
        from sae_atlas.own_arrays.read import open_array

        locations = find_layers(base_model["path"])
        rows, width = open_array(next(iter(locations.values()))).shape
        return Shape(len(locations), width, rows, 0, 0, 0)
    file = Path(prepared) / "config.json"
    config = read_config_file(file) if file.is_file() else model_config(base_model, at_hand=at_hand)
    try:
        return _shape(text_part(config))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AtlasError(
            "base_model: its config does not say width, blocks and vocabulary; what it takes is not known"
        ) from error


def _shape(config: dict) -> Shape:
    def size(*names: str, default: int | None = None) -> int:
        return int(next((config[name] for name in names if config.get(name)), default))

    width, layers = size(*WIDTHS), size(*LAYERS)
    heads = size("num_attention_heads", "n_head", "num_heads", default=1)
    keys = size("num_key_value_heads", default=1 if config.get("multi_query") else heads)
    attention = 2 * width * size("head_dim", default=width // heads) * (heads + keys)
    inner = size("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", default=4 * width)
    experts = size("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", default=1)
    computed = size("num_experts_per_tok", "moe_k", default=experts)  # of a token
    shared = size("n_shared_experts", "moe_num_shared_experts", default=0)
    expert = width * inner * (2 if config["model_type"] in UNGATED else 3)
    router = width * experts if experts > 1 else 0
    block = attention + router + (computed + shared) * expert
    rest = (experts - computed) * expert  # of a block, for other tokens
    vocabulary = size("vocab_size")
    embeddings = vocabulary * (
        1 if config.get("tie_word_embeddings", True) else 2
    )  # absent where it is as transformers has it
    stored = str(config.get("dtype") or config.get("torch_dtype"))
    norms = width * (2 * layers + 1)
    return Shape(
        layers,
        width,
        vocabulary,
        block,
        layers * (block + rest) + width * embeddings + norms,
        2 if "16" in stored else 4,
    )
