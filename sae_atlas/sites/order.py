"""Patches and captures that are there at once: each must read what those before it in the model have changed.

Hooks of one module run in the order in which they were registered, and a site may be read in several modules: in a Llama
`resid_mid` is the attention's output plus the block's input. A patch of that input must be registered before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

from torch import nn

from sae_atlas.io.errors import AtlasError
from sae_atlas.sites.points import Block, Point

FORWARD = ("resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")  # as a pass goes through a block


class _Use(NamedTuple):
    site: str
    reads: set[tuple]  # where hooks of it read
    rank: float


_active: WeakKeyDictionary[nn.Module, list[_Use]] = WeakKeyDictionary()


def forward_rank(block: Block, point: Point) -> int:
    """Place in FORWARD of the site that the point is; -1 where it is in a module that holds no site."""
    sites = [site for site in FORWARD if site in block.points]
    same = [site for site in sites if block.points[site] == point]
    held = [site for site in sites if _where(block.points[site]) == _where(point)]  # times another number
    return FORWARD.index((same or held)[0]) if held else -1


@contextmanager
def in_order(
    model: nn.Module, site: str, block: Block, point: Point, writes: bool = False, last: bool = False
) -> Iterator[None]:
    """To be entered before the hooks of a point are registered.

    writes: whether they change the activation. last: whether they must see it after all patches of the site itself, too.
    Raises AtlasError where the change would come too late for a capture or a patch that is there already and comes after it
    in the model.
    """
    active, rank = _active.setdefault(model, []), forward_rank(block, point)
    written = {_where(each) for each in (point, point.carried) if each} if writes else set()
    late = next((use.site for use in active if written & use.reads and rank < use.rank), None)
    if late is not None:
        raise AtlasError(
            f"{site} of {block.module}: {late} reads it and is captured or patched already; enter the `with` of {site} first"
        )
    use = _Use(site, {_where(each) for each in (point, point.stream) if each}, rank + 0.5 * last)
    active.append(use)
    try:
        yield
    finally:
        active[:] = [each for each in active if each is not use]


def _where(point: Point) -> tuple:
    return point.module, point.slot, point.is_input
