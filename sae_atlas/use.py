"""Use an SAE in Python: load it, read a model's activations, run the model through it."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from sae_atlas.base_models.load import load, load_base_model, load_tokenizer
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.load import load_sae
from sae_atlas.saes.sae import Sae
from sae_atlas.sites import hooks

__all__ = ["capture", "load_base_model", "load_model", "load_sae", "patch"]


def load_model(provenance: str | Path, dtype: str = "float32", device: str = "auto") -> tuple[nn.Module, object]:
    """(model in evaluation mode, tokenizer) of an atlas: `results/base_model/provenance.json`.

    device: auto (a GPU where there is one), cpu or cuda. Raises AtlasError if the folder does not load.
    """
    return load(provenance, dtype, device)[0], load_tokenizer(provenance)


def capture(model: nn.Module, site: str, layers: list[int]) -> AbstractContextManager[dict[int, Tensor]]:
    """Inside the `with`, every forward pass fills the dict: layer -> activations [batch, context, d] at the site."""
    return hooks.capture(model, site, layers, stop=False)


@contextmanager
def patch(
    model: nn.Module,
    sae: Sae,
    scale: Mapping[int, float] | None = None,
    site: str | None = None,
    layer: int | None = None,
    skip: int = 1,
    attention_mask: Tensor | None = None,
) -> Iterator[None]:
    """Inside the `with`, the model reads the SAE's reconstruction in place of the site's activations.

    scale: latent -> factor on its activation before decoding (steering). site, layer: where; by default what the SAE was
    trained on. skip: positions at the start of a context that stay as they are, for SAEs saw none of them; a pass of one
    position is a step of generation and none of its start. attention_mask [batch, context] of a padded batch: the start is
    then where it begins to be 1. Raises AtlasError where site or layer is not known.
    """
    trained = sae.config["activations"]
    site, layer = site or trained["site"], trained["layer"] if layer is None else layer
    if site is None or layer is None:
        raise AtlasError("patch: this SAE does not say what it was trained on; give site and layer")
    beyond = [latent for latent in scale or () if not 0 <= latent < sae.d_sae]
    if beyond:
        raise AtlasError(f"patch: no latent {beyond[0]}; the SAE has latents 0 to {sae.d_sae - 1}")

    factors = torch.ones_like(sae.b_enc)
    for latent, factor in (scale or {}).items():
        factors[latent] = factor

    def through(x: Tensor) -> Tensor:
        replaced = sae.decode(sae.encode(x.to(sae.W_enc)) * factors).to(x)
        if x.shape[1] == 1:
            return replaced
        mask = torch.ones(x.shape[:2]) if attention_mask is None else attention_mask
        kept = (mask.cumsum(dim=1) <= skip).to(x.device)
        return torch.where(kept[..., None], x, replaced)

    with hooks.patch(model, site, layer, through):
        yield
