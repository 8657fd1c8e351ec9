"""Use an SAE in Python: load it, read a model's activations, run the model through it, attribute an output to latents."""

from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor, nn

from sae_atlas.base_models.load import load, load_base_model, load_tokenizer
from sae_atlas.edit import attribute, patch
from sae_atlas.publish.formats.load import load_sae
from sae_atlas.sites import hooks

__all__ = ["attribute", "capture", "load_base_model", "load_model", "load_sae", "patch"]


def load_model(provenance: str | Path, dtype: str = "float32", device: str = "auto") -> tuple[nn.Module, object]:
    """(model in evaluation mode, tokenizer) of an atlas: `results/base_model/provenance.json`.

    device: auto (a GPU where there is one), cpu or cuda. Raises AtlasError if the folder does not load.
    """
    return load(provenance, dtype, device)[0], load_tokenizer(provenance)


def capture(model: nn.Module, site: str, layers: list[int]) -> AbstractContextManager[dict[int, Tensor]]:
    """Inside the `with`, every forward pass fills the dict: layer -> activations [batch, context, d] at the site."""
    return hooks.capture(model, site, layers, stop=False)
