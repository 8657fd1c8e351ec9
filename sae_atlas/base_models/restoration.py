"""RestorationModel: a character-level encoder that restores damaged text, from a `.pt` of its own format.

Pre-LN blocks, attention in both directions with rotary positions over whole heads, LayerNorm, GELU, an untied head with
a bias; token id = Unicode code point. As a transformers model, so that everything else reads it like any other.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from sae_atlas.io.errors import AtlasError, reason

KEYS = {  # of `config` in the file -> ours
    "vocab_size": "vocab_size",
    "max_position": "max_position_embeddings",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "rotary_base": "rotary_base",
}


class RestorationConfig(PreTrainedConfig):
    """Sizes under transformers' names. attention_bias: whether the four projections of attention have biases."""

    model_type = "restoration"
    predicts = "itself"  # the character at a position, not the next one

    def __init__(
        self,
        vocab_size: int = 11812,
        max_position_embeddings: int = 768,
        hidden_size: int = 384,
        num_attention_heads: int = 8,
        intermediate_size: int = 1536,
        num_hidden_layers: int = 16,
        rotary_base: float = 10000,
        attention_bias: bool = True,
        **others,
    ):
        self.vocab_size, self.max_position_embeddings = vocab_size, max_position_embeddings
        self.hidden_size, self.num_attention_heads = hidden_size, num_attention_heads
        self.intermediate_size, self.num_hidden_layers = intermediate_size, num_hidden_layers
        self.rotary_base, self.attention_bias = rotary_base, attention_bias
        super().__init__(**{"tie_word_embeddings": False, **others})


class Attention(nn.Module):
    def __init__(self, config: RestorationConfig):
        super().__init__()
        d, self.heads = config.hidden_size, config.num_attention_heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.add_module(name, nn.Linear(d, d, bias=config.attention_bias))

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], allowed: Tensor | None) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in self._inputs())
        mixed = scaled_dot_product_attention(_rotate(q, *rotation), _rotate(k, *rotation), v, attn_mask=allowed)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _inputs(self) -> tuple[nn.Linear, ...]:
        return self.q_proj, self.k_proj, self.v_proj


class Block(nn.Module):
    def __init__(self, config: RestorationConfig):
        super().__init__()
        d, wide = config.hidden_size, config.intermediate_size
        self.ln1, self.attn, self.ln2 = nn.LayerNorm(d), Attention(config), nn.LayerNorm(d)
        self.ff = nn.Sequential(nn.Linear(d, wide), nn.GELU(), nn.Linear(wide, d))

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], allowed: Tensor | None) -> Tensor:
        x = x + self.attn(self.ln1(x), rotation, allowed)
        return x + self.ff(self.ln2(x))


class RestorationModel(PreTrainedModel):
    """Module names are those of the file's state. There is no dropout: nothing is trained here."""

    config_class = RestorationConfig
    base_model_prefix = ""
    _no_split_modules = ("Block",)  # lies on one device

    def __init__(self, config: RestorationConfig):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.final_ln = nn.LayerNorm(config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_) -> MaskedLMOutput:
        """Logits [batch, length, vocabulary] of the character at every position itself, for any length up to the largest.

        attention_mask [batch, length]: 0 where there is padding, which no other position sees. Raises AtlasError for a
        longer input.
        """
        length = input_ids.shape[1]
        if length > self.config.max_position_embeddings:
            raise AtlasError(
                f"base_model: reads at most {self.config.max_position_embeddings} characters, not {length}; "
                "lower corpus.context"
            )
        x = self.embed(input_ids)
        rotation = _rotation(
            length, self.config.hidden_size // self.config.num_attention_heads, self.config.rotary_base, x
        )
        allowed = None
        if attention_mask is not None:  # padding sees itself, for nothing has to be seen
            itself = torch.eye(length, dtype=torch.bool, device=x.device)
            allowed = attention_mask.bool()[:, None, None, :] | itself
        for block in self.layers:
            x = block(x, rotation, allowed)
        return MaskedLMOutput(logits=self.head(self.final_ln(x)))


def read_restoration(file: str | Path) -> RestorationModel:
    """The model in a `.pt` of {model_state_dict, config, vocab_size}, which may lack the last; no code in it is run.

    Shapes are compared with the config before a weight is read into memory. Raises AtlasError for what does not fit.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        said, state = content["config"], content["model_state_dict"]
        config = _config(said, state)
        with torch.device("meta"):
            model = RestorationModel(config)
    except Exception as error:  # a damaged pickle shows as errors of many kinds
        if isinstance(error, AtlasError):
            raise
        raise AtlasError(
            f"{file}: no restoration checkpoint ({reason(error)}); give another base_model.path"
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | state.keys()):
        shape = tuple(state[name].shape) if name in state else None
        if shape != expected.get(name):
            raise AtlasError(f"{file}: {name} is {shape}, its config asks for {expected.get(name)}; give another file")
    model.load_state_dict(state, assign=True)
    return model.float().eval().requires_grad_(False)


def _config(said: dict, state: dict) -> RestorationConfig:
    sizes = {ours: said[theirs] for theirs, ours in KEYS.items()}
    held = len({name.split(".")[1] for name in state if name.startswith("layers.")})
    heads, d = sizes["num_attention_heads"], sizes["hidden_size"]
    if sizes["num_hidden_layers"] != held:  # before so many are made
        raise AtlasError(
            f"a restoration checkpoint: it holds {held} layers, its config says {sizes['num_hidden_layers']}"
        )
    if d % heads or d // heads % 2:
        raise AtlasError(f"a restoration checkpoint: its {d} dimensions are no {heads} heads of an even width")
    return RestorationConfig(**sizes, attention_bias="layers.0.attn.q_proj.bias" in state)


def _rotation(length: int, width: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [length, width] of position x base^(-2i / width), the same for both halves of a head."""
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().to(like), angle.sin().to(like)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each dimension of the first half with its partner in the second (arXiv 2104.09864); x [..., length, width]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


AutoConfig.register("restoration", RestorationConfig)
AutoModelForCausalLM.register(RestorationConfig, RestorationModel)
