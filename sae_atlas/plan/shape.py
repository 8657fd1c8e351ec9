"""Sizes of the base model before it is there: enough to count arithmetic and bytes. Downloads at most its config."""

from dataclasses import dataclass
from pathlib import Path

from sae_atlas.base_models.packages import find_model
from sae_atlas.config.made import base_of
from sae_atlas.errors import AtlasError, reason
from sae_atlas.hub import refuse

VOCABULARIES = {"bytes": 257, "package": 49152}  # of the tokenizers that random models take


@dataclass(frozen=True)
class Shape:
    """Weights are those in matrix products: a token costs 2 FLOPs for each."""

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


def read_shape(base_model: dict, prepared: str | Path) -> Shape:
    """Of the config section `base_model`; from the folder `prepared` if the model is there already.

    Raises AtlasError if the model's config cannot be had.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from sae_atlas.sites import blocks

    config = model_config(base_model, Path(prepared))
    with torch.device("meta"):  # sizes without memory
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    stored = getattr(config, "dtype", None) or torch.float32
    text = config.get_text_config()
    return Shape(
        n_layers=len(blocks(model)),
        d_model=text.hidden_size,
        vocabulary=text.vocab_size,
        block_weights=sum(weight.numel() for weight in blocks(model)[0].parameters() if weight.ndim > 1),
        parameters=sum(weight.numel() for weight in model.parameters()),
        value_bytes=getattr(torch, str(stored).removeprefix("torch.")).itemsize,
    )


def model_config(base_model: dict, prepared: Path | None):
    """The transformers config of a section `base_model`, from the folder `prepared` if that is there. Raises AtlasError."""
    from transformers import AutoConfig

    from sae_atlas.base_models.restoration import read_restoration

    base_model = base_of(base_model)
    source = base_model["source"]
    try:
        if prepared and (prepared / "config.json").is_file():
            return AutoConfig.from_pretrained(prepared, trust_remote_code=False, local_files_only=True)
        if source == "package":
            from sae_atlas.base_models.gguf_llama import read_config

            return read_config(find_model(base_model["package"]).path())
        if source in ("random", "pretrain"):
            ids = {"vocab_size": VOCABULARIES[base_model["tokenizer"]], "bos_token_id": 0, "eos_token_id": 0}
            sizes = {**ids, **base_model["sizes"]}
            return AutoConfig.for_model(base_model["architecture"], **sizes)
        if source == "restoration":
            return read_restoration(base_model["path"]).config
        if source == "local":
            return AutoConfig.from_pretrained(base_model["path"], trust_remote_code=False, local_files_only=True)
        return AutoConfig.from_pretrained(
            base_model["id"], trust_remote_code=False, revision=base_model.get("revision")
        )
    except (OSError, ValueError, TypeError) as error:
        if source == "hub" and isinstance(error, OSError):
            refuse(error, "base_model.id", base_model["id"], base_model.get("revision"), "config.json")
        raise AtlasError(f"base_model: its config cannot be had ({reason(error)}); check source and network") from error
