"""Read and patch a model's activations at a site, and run it from a later block on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import product

from torch import Tensor, nn

from sae_atlas.io.errors import AtlasError
from sae_atlas.sites import MODULE_INPUT, SITES
from sae_atlas.sites.measure import measure
from sae_atlas.sites.order import forward_rank, in_order
from sae_atlas.sites.points import Point, hooked, started


class _Reached(Exception):
    """The last activation needed is there; the rest of the forward pass is not run."""


def blocks(model: nn.Module) -> nn.ModuleList:
    return model.get_submodule(measure(model).path)


def point_of(model: nn.Module, site: str, layer: int) -> Point:
    """Where the site of a block is read and patched.

    Raises AtlasError for a site or layer that does not exist, with what was measured or the nearest module names, and for a
    module that does not hold one activation per token.
    """
    sites = measure(model)
    if not 0 <= layer < len(sites.blocks):
        raise AtlasError(
            f"activations.layers: no layer {layer}; {type(model).__name__} has layers 0 to {len(sites.blocks) - 1}"
        )
    block = sites.blocks[layer]
    if site in block.points:
        return block.points[site]
    if site in SITES:
        raise AtlasError(
            f"activations.site: {site}: {block.lacks[site]}; {', '.join(block.points)} can be read, and module paths "
            "with {layer} in them"
        )
    pattern = site.removeprefix(MODULE_INPUT)
    path, is_input = pattern.replace("{layer}", str(layer)), site.startswith(MODULE_INPUT)
    if path not in sites.slots[is_input]:
        paths = [name.replace(f"{block.module}.", f"{sites.path}.{{layer}}.", 1) for name in module_paths(model, layer)]
        near = difflib.get_close_matches(pattern, paths, 3, 0.3) or paths
        raise AtlasError(
            f"activations.site: no module {site!r}; sites are {', '.join(SITES)}, module paths {', '.join(near)}"
        )
    slot = sites.slots[is_input][path]
    if isinstance(slot, str):
        raise AtlasError(f"activations.site: {site.replace('{layer}', str(layer))} {slot}")
    return Point(path, slot, is_input)


def module_paths(model: nn.Module, layer: int) -> list[str]:
    """Paths of the modules inside one block."""
    block = measure(model).blocks[layer].module
    return [name for name, _ in model.named_modules() if name.startswith(f"{block}.")]


def check_site(model: nn.Module, site: str, layers: list[int], origin: dict) -> None:
    """Raise AtlasError if a layer has no such site, or if it is elsewhere than where it was when the model was prepared.

    origin: the model's provenance. Also raised for a model whose predictions depend on the tokens that they predict, unless
    its config says that it predicts those themselves.
    """
    sites = measure(model)
    for layer in layers:
        point_of(model, site, layer)
    if not sites.causal and getattr(model.config, "predicts", "next") != "itself":
        raise AtlasError(
            f"base_model: what {type(model).__name__} predicts for a token depends on tokens behind it; it is no causal "
            "language model as it stands (`is_decoder` in its config.json), and its losses would mean nothing"
        )
    if "sites" in origin and _with_sites_of(origin["sites"], sites.plain()) != origin["sites"]:
        raise AtlasError(
            "base_model: its sites are not where they were when it was prepared; another version of transformers computes "
            "it. Install that version again, or delete results/base_model and rerun"
        )


def _with_sites_of(record: dict, table: dict) -> dict:
    """The table without the sites that the record does not name: those that were not found when it was written."""
    layers = [
        {kind: {site: where for site, where in layer[kind].items() if site in known[kind]} for kind in layer}
        for layer, known in zip(table["layers"], record["layers"], strict=False)
    ]
    return table | {"layers": layers}


@contextmanager
def capture(model: nn.Module, site: str, layers: list[int], stop: bool = True) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that one forward pass inside the `with` fills: layer -> [batch, context, d], copied.

    Unless `stop` is False, the pass ends after the last layer needed, and with it the `with` block. Raises AtlasError where
    point_of does.
    """
    with capture_sites(model, [site], layers, stop) as captured:
        yield captured[site]


@contextmanager
def capture_sites(
    model: nn.Module, sites: list[str], layers: list[int], stop: bool = True
) -> Iterator[dict[str, dict[int, Tensor]]]:
    """As `capture`, of several sites in one pass: site -> layer -> [batch, context, d]."""
    captured: dict[str, dict[int, Tensor]] = {site: {} for site in sites}
    needed = len(layers) * len(captured)

    def keep(site: str, layer: int, activation: Tensor) -> None:
        captured[site][layer] = activation.detach().clone()  # some blocks change it in place later
        if stop and sum(map(len, captured.values())) == needed:
            raise _Reached

    with ExitStack() as stack:
        for site, layer in product(captured, layers):
            stack.enter_context(_hooked(model, site, layer, partial(keep, site, layer)))
        with suppress(_Reached):
            yield captured


@contextmanager
def patch(model: nn.Module, site: str, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the `with`, the site's activation [batch, context, d] is replaced by `change(activation)`.

    Several may be there at once, also at one site: each reads what the one before it gave. Raises AtlasError where point_of
    does, and for a site that one which is captured or patched already reads; the first in the model is to be entered first.
    """
    with _hooked(model, site, layer, change, writes=True):
        yield


def patch_order(model: nn.Module, site: str, layer: int) -> tuple[int, int]:
    """A key that sorts the sites of a model as a pass reaches them, so that patches can be entered in that order."""
    point = point_of(model, site, layer)
    return layer, forward_rank(measure(model).blocks[layer], point)


@contextmanager
def _hooked(
    model: nn.Module, site: str, layer: int, see: Callable[[Tensor], Tensor | None], writes=False, last=False
) -> Iterator[None]:
    """`hooked` by the name of a site, with what `in_order` asks."""
    point, sites = point_of(model, site, layer), measure(model)
    with in_order(model, site, sites.blocks[layer], point, writes, last), hooked(model, sites, point, see):
        yield


@contextmanager
def transcode(
    model: nn.Module, site: str, target: str, layer: int, change: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Inside the `with`, the target's activation y [batch, context, d_out] is replaced by `change(x, y)`.

    x [batch, context, d_in]: the site's activation in the same pass, which must come first. Raises AtlasError where the target
    is computed before the site.
    """
    read: dict[str, Tensor] = {}

    def keep(x: Tensor) -> None:
        read["x"] = x.clone()  # some blocks change it in place later

    def replace(y: Tensor) -> Tensor:
        if "x" not in read:
            raise AtlasError(f"activations.target: {target} is computed before {site} and cannot be predicted from it")
        return change(read.pop("x"), y)

    with ExitStack() as stack:
        stack.enter_context(_hooked(model, site, layer, keep, last=True))
        stack.enter_context(patch(model, target, layer, replace))
        yield


@contextmanager
def start_at(model: nn.Module, layer: int, residual: Tensor) -> Iterator[None]:
    """Inside the `with`, the blocks before `layer` are skipped and block `layer` reads `residual` [batch, context, d]."""
    with started(model, measure(model), layer, residual):
        yield
