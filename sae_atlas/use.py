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

KEYS = ("attention_mask", "position_ids")  # arguments of a pass that say where its rows start

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
    target: str | None = None,
) -> Iterator[None]:
    """Inside the `with`, the model reads the SAE's reconstruction in place of the site's activations.

    A transcoder's output replaces the target's activations. scale: latent -> factor on its activation before decoding
    (steering). site, layer, and a transcoder's target: where; by default what the SAE was trained on. skip: positions at the
    start of a context that stay as they are, for SAEs saw none of them. The start of a padded row is where its attention mask
    [batch, context] begins to be 1: that of the pass, or attention_mask where a pass has none. Raises AtlasError where site,
    layer or target is not known, and for a mask of another batch.
    """
    trained = sae.config["activations"]
    site, layer = site or trained["site"], trained["layer"] if layer is None else layer
    if site is None or layer is None:
        raise AtlasError("patch: this SAE does not say what it was trained on; give site and layer")
    target = target or trained.get("target")
    if sae.is_transcoder and target is None:
        raise AtlasError("patch: this transcoder does not say what it predicts; give its target")
    beyond = [latent for latent in scale or () if not 0 <= latent < sae.d_sae]
    if beyond:
        raise AtlasError(f"patch: no latent {beyond[0]}; the SAE has latents 0 to {sae.d_sae - 1}")

    factors = torch.ones_like(sae.b_enc)
    for latent, factor in (scale or {}).items():
        factors[latent] = factor

    given: dict[str, Tensor] = {}  # KEYS of the pass at work

    def read_arguments(_, arguments: tuple, named: dict) -> None:
        given.clear()
        of_pass = {"attention_mask": next(iter(arguments[1:2]), None)} | named
        given.update({key: of_pass.get(key) for key in KEYS})

    def through(x: Tensor, y: Tensor) -> Tensor:
        read = x.to(sae.W_enc)
        replaced = sae.with_skip(sae.decode(sae.encode(read) * factors, read), read).to(y)
        at_start = _starts(given, attention_mask, *y.shape[:2], skip).to(y.device)
        return torch.where(at_start[..., None], y, replaced)

    if sae.is_transcoder:
        replacing = hooks.transcode(model, site, target, layer, through)
    else:
        replacing = hooks.patch(model, site, layer, lambda x: through(x, x))

    handles = [
        model.register_forward_pre_hook(read_arguments, with_kwargs=True),
        model.register_forward_hook(lambda *_: given.clear()),  # a part of the model may be called alone
    ]
    try:
        with replacing:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _starts(given: Mapping, mask: Tensor | None, rows: int, positions: int, skip: int) -> Tensor:
    """Which positions of a pass are padding or the first `skip` after it, bool [rows or 1, positions].

    A pass that continues a cache has the mask of all positions, its own last; one without a mask may say the numbers of its
    positions; else one position alone continues, and more are a context from its start.
    """
    own, numbers = (each if isinstance(each, Tensor) and each.dim() == 2 else None for each in map(given.get, KEYS))
    if own is None and mask is not None and positions > 1:  # a step goes on after the positions that the mask is of
        own = mask
    if own is not None:
        starts = (own.cumsum(dim=1) <= skip)[:, -positions:]
    elif numbers is not None:
        starts = numbers < skip
    else:
        starts = torch.arange(positions)[None] < (skip if positions > 1 else 0)
    if starts.shape not in ((rows, positions), (1, positions)):
        raise AtlasError(
            f"patch: attention_mask is {list(own.shape)}, the pass reads {[rows, positions]}; give its own"
        )
    return starts
