"""SAEs in a model: their reconstruction in the place of its activations, latents edited, outputs attributed to latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sae_atlas.io.errors import AtlasError
from sae_atlas.saes.sae import Sae
from sae_atlas.sites import NORMALISED, hooks, own_path
from sae_atlas.sites.measure import measure
from sae_atlas.sites.starts import context_starts

Latents = Mapping[int, float]  # latent -> value


@contextmanager
def patch(
    model: nn.Module,
    sae: Sae | Sequence[Sae],
    scale: Latents | Sequence[Latents | None] | None = None,
    site: str | Sequence[str | None] | None = None,
    layer: int | Sequence[int | None] | None = None,
    skip: int = 1,
    attention_mask: Tensor | None = None,
    target: str | Sequence[str | None] | None = None,
    clamp: Latents | Sequence[Latents | None] | None = None,
    add: Latents | Tensor | Sequence[Latents | Tensor | None] | None = None,
    keep_error: bool = False,
) -> Iterator[None]:
    """Inside the `with`, the model reads the SAE's reconstruction in place of the site's activations.

    A transcoder's output replaces the target's activations. Edits, at every position that is replaced:
    scale: latent -> factor on its activation before decoding;
    clamp: latent -> its activation, in the unit of `sae.encode`, whatever it is without;
    add: latent -> how many times its decoder row is added to the site (the target), or a vector [d_out] to add.
    keep_error: whether what the reconstruction misses in the same pass, x - x_hat (of a transcoder y - y_hat) without edits,
    is added: then the model is as it was but for the edits.

    site, layer, and a transcoder's target: where; by default what the SAE was trained on. skip: positions at the start of a
    context that stay as they are, for SAEs saw none of them. The start of a padded row is where its attention mask
    [batch, context] begins to be 1: that of the pass, or attention_mask where a pass has none.

    sae may be a list, of one SAE per site: then scale, clamp, add, site, layer and target are lists with one value for each
    SAE. Every SAE reads what the ones before it in the model give. Patches nest, too: the first in the model outside.

    Raises AtlasError where site, layer or target is not known, for a latent that does not exist or is scaled and clamped, a
    vector of another width, two SAEs at one site in a list, a patch inside one that needs it, and a mask of another batch.
    """
    uses = _uses(model, sae, site, layer, target)
    values = zip(*(_each(*named, sae) for named in (("scale", scale), ("clamp", clamp), ("add", add))), strict=True)
    edits = [_edit(use.sae, *each) for use, each in zip(uses, values, strict=True)]
    with ExitStack() as stack:
        at_start = stack.enter_context(context_starts(model, skip, attention_mask))

        def through(sae: Sae, edit: _Edit, x: Tensor, y: Tensor) -> Tensor:
            latents = sae.encode(x)
            edited = latents * edit.factors + edit.values
            if keep_error:  # y_hat + (y - y_hat) without the rounding: where nothing is edited, y itself
                replaced = y + (sae.decode(edited, x) - sae.decode(latents, x) + edit.direction).to(y.device)
            else:
                replaced = sae.with_skip(sae.decode(edited, x), x) + edit.direction
            return torch.where(at_start(y), y, replaced.to(y))

        for use, edit in sorted(zip(uses, edits, strict=True), key=lambda pair: pair[0].order):
            stack.enter_context(use.replaced(model, partial(through, use.sae, edit)))
        yield


def attribute(
    model: nn.Module,
    sae: Sae | Sequence[Sae],
    inputs: Mapping | Tensor,
    metric: Callable[[Tensor], Tensor],
    site: str | Sequence[str | None] | None = None,
    layer: int | Sequence[int | None] | None = None,
    skip: int = 1,
    target: str | Sequence[str | None] | None = None,
) -> Tensor | list[Tensor]:
    """How much each latent at each position adds to a number of the logits, to first order: gradient x activation.

    [batch, context, d_sae] in the unit of the metric: f_j * d metric / d f_j, the linear estimate of how far the metric falls
    when the latent is set to 0 at that position and the SAE's error is kept (`patch` with scale 0 and keep_error). That is
    attribution patching (Syed et al., arXiv 2310.10348) of SAE latents (Marks et al., arXiv 2403.19647), with 0 as the
    patched value. It is exact where the metric is linear in the latent. The logits are the model's own.

    inputs: arguments of the model's forward (what a tokenizer gives), or token ids [batch, context]. metric: logits
    [batch, context, vocabulary] -> Tensor [], one number over the whole batch. The rest is as for `patch`; padding, by the
    inputs' attention_mask, and the first `skip` positions are 0. For a list of SAEs a list: each alone, with the effects
    through all that comes after it. Raises AtlasError as `patch` does, and for a metric that is not one number with a gradient.
    """
    uses = _uses(model, sae, site, layer, target)
    latents: dict[_Use, Tensor] = {}
    inputs_of: dict[_Use, Tensor] = {}
    changes: dict[_Use, Tensor] = {}  # of what is written: 0, with the gradient of the metric
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        at_start = stack.enter_context(context_starts(model, skip, None))

        def watch(use: _Use, x: Tensor, y: Tensor) -> Tensor:
            inputs_of[use] = x.detach()
            encoded = use.sae.encode(inputs_of[use])
            latents[use] = torch.where(at_start(encoded), 0, encoded)
            changes[use] = torch.zeros_like(y, requires_grad=True)
            return y + changes[use]

        for use in sorted(uses, key=lambda use: use.order):
            stack.enter_context(use.replaced(model, partial(watch, use)))
        value = metric((model(inputs) if isinstance(inputs, Tensor) else model(**inputs)).logits)
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        what = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise AtlasError(f"metric: must give one number of the logits, a tensor [] with a gradient; it gave {what}")
    gradients = torch.autograd.grad(value, [changes[use] for use in uses], materialize_grads=True)
    scores = [
        latents[use] * use.sae.latent_gradient(gradient, inputs_of[use])
        for use, gradient in zip(uses, gradients, strict=True)
    ]
    return scores[0] if isinstance(sae, Sae) else scores


class _Use(NamedTuple):
    """An SAE, the site that it reads and the one that it writes: its own, a transcoder's target."""

    sae: Sae
    site: str
    target: str
    layer: int
    order: tuple[int, int]  # in which a pass reaches what it writes

    def replaced(self, model: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> AbstractContextManager:
        """Inside the `with`, what it writes, y [batch, context, d_out], is `change(x, y)`; x: what it reads."""
        if self.sae.is_transcoder:
            return hooks.transcode(model, self.site, self.target, self.layer, change)
        return hooks.patch(model, self.site, self.layer, lambda x: change(x, x))


def _uses(model: nn.Module, sae, site, layer, target) -> list[_Use]:
    """Of one SAE or a list, in its order. Raises AtlasError as `patch` does."""
    saes = [sae] if isinstance(sae, Sae) else list(sae)
    where = zip(
        saes, *(_each(*named, sae) for named in (("site", site), ("layer", layer), ("target", target))), strict=True
    )
    uses = [_use(model, *each) for each in where]
    points = [hooks.point_of(model, use.target, use.layer) for use in uses]
    for number, (use, point) in enumerate(zip(uses, points, strict=True)):
        if point in points[:number]:
            raise AtlasError(
                f"sae: two SAEs for {use.target} of layer {use.layer}; give one, or nest them in two patches"
            )
    return uses


def _use(model: nn.Module, sae: Sae, site: str | None, layer: int | None, target: str | None) -> _Use:
    trained = sae.config["activations"]
    site, layer = site or trained["site"], trained["layer"] if layer is None else layer
    if site is None or layer is None:
        raise AtlasError("this SAE does not say what it was trained on; give site and layer")
    if trained["site"] == NORMALISED:
        raise AtlasError(
            "this transcoder reads what the norm gives before its weights, where no site of a model is; a recipe with "
            "`pretrained` turns it into one that reads mlp_in"
        )
    if trained.get("folded"):
        raise AtlasError(
            "this SAE reads the heads without the biases of their values, which no site of a model holds; a recipe with "
            "`pretrained` turns it into one that reads them as they are"
        )
    if not sae.is_transcoder:
        target = site
    elif (target := target or trained.get("target")) is None:
        raise AtlasError("this transcoder does not say what it predicts; give its target")
    blocks = measure(model).path
    site, target = own_path(site, blocks), own_path(target, blocks)
    return _Use(sae, site, target, layer, hooks.patch_order(model, target, layer))


def _each(name: str, value, sae: Sae | Sequence[Sae]) -> list:
    """An argument's value for each SAE."""
    if isinstance(sae, Sae):
        return [value]
    if value is None:
        return [None] * len(sae)
    if not isinstance(value, list | tuple) or len(value) != len(sae):
        raise AtlasError(f"{name}: must be a list of {len(sae)}, one for each SAE of the list; None where it has none")
    return list(value)


class _Edit(NamedTuple):
    """latents * factors + values [d_sae] before decoding, and a direction [d_out] that is added after it."""

    factors: Tensor
    values: Tensor
    direction: Tensor


def _edit(sae: Sae, scale: Latents | None, clamp: Latents | None, add: Latents | Tensor | None) -> _Edit:
    scale, clamp, add = scale or {}, clamp or {}, {} if add is None else add
    for name, latents in (("scale", scale), ("clamp", clamp), ("add", {} if isinstance(add, Tensor) else add)):
        beyond = [latent for latent in latents if not 0 <= latent < sae.d_sae]
        if beyond:
            raise AtlasError(f"{name}: no latent {beyond[0]}; the {sae.kind} has latents 0 to {sae.d_sae - 1}")
    if both := scale.keys() & clamp.keys():
        raise AtlasError(f"clamp: latent {min(both)} is scaled, too; give one of the two")
    factors, values, direction = torch.ones_like(sae.b_enc), torch.zeros_like(sae.b_enc), torch.zeros_like(sae.b_dec)
    for latent, factor in scale.items():
        factors[latent] = factor
    for latent, value in clamp.items():
        factors[latent], values[latent] = 0, value
    if not isinstance(add, Tensor):
        direction = sum((strength * sae.W_dec[latent] for latent, strength in add.items()), direction)
    elif add.shape != direction.shape:
        raise AtlasError(
            f"add: a vector of shape {list(add.shape)}; the site has {sae.d_out} dimensions, give [{sae.d_out}]"
        )
    else:
        direction = add.to(direction)
    return _Edit(factors, values, direction)
