"""Where the rows of a pass start: which positions are padding or the first of a context."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from sae_atlas.io.errors import AtlasError

KEYS = ("attention_mask", "position_ids")  # arguments of a pass that say where its rows start
CACHES = ("past_key_values", "cache_params", "state")  # arguments that hold what a pass continues


@contextmanager
def context_starts(model: nn.Module, skip: int, attention_mask: Tensor | None) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield a function of an activation [batch, context, d] of the pass at work: bool [batch or 1, context, 1], True at
    padding and at the first `skip` positions of a context.

    The start of a padded row is where its attention mask [batch, context] begins to be 1: that of the pass, or attention_mask
    where a pass has none. The function raises AtlasError for a mask of another batch.
    """
    given: dict[str, Tensor | float | None] = {}  # the pass at work: KEYS; `before`: positions it continues
    names = list(inspect.signature(model.forward).parameters)

    def read_arguments(_, arguments: tuple, named: dict) -> None:
        of_pass = dict(zip(names, arguments, strict=False)) | named
        given.clear()
        given.update({key: of_pass.get(key) for key in KEYS})
        given["before"] = _length(next((of_pass[key] for key in CACHES if of_pass.get(key) is not None), None))

    handles = [
        model.register_forward_pre_hook(read_arguments, with_kwargs=True),
        model.register_forward_hook(lambda *_: given.clear()),  # a part of the model may be called alone
    ]
    try:
        yield lambda value: _starts(given, attention_mask, *value.shape[:2], skip)[..., None].to(value.device)
    finally:
        for handle in handles:
            handle.remove()


def _length(cache) -> float | None:
    """Positions that a cache holds; infinite for recurrent states, which do not count them; None where it does not say."""
    if cache is None:
        return 0
    with suppress(AttributeError, ValueError):
        return int(cache.get_seq_length())
    with suppress(AttributeError, ValueError):
        return math.inf if cache.has_previous_state() else 0
    return None


def _starts(given: Mapping, mask: Tensor | None, rows: int, positions: int, skip: int) -> Tensor:
    """Which positions of a pass are padding or the first `skip` after it, bool [rows or 1, positions].

    A pass that continues a cache has the mask of all positions, its own last; one without a mask may say the numbers of its
    positions; else they follow on those in the cache. Where that is not known one position alone continues, and more are a
    context from its start.
    """
    own, numbers = (each if isinstance(each, Tensor) and each.dim() == 2 else None for each in map(given.get, KEYS))
    before = given.get("before")
    if before is None:
        before = 0 if positions > 1 else math.inf
    if own is None and before == 0:  # a step goes on after the positions that the mask is of
        own = mask
    if own is not None:
        starts = (own.cumsum(dim=1) <= skip)[:, -positions:]
    elif numbers is not None:
        starts = numbers < skip
    else:
        starts = torch.arange(positions)[None] + before < skip
    if starts.shape not in ((rows, positions), (1, positions)):
        raise AtlasError(f"attention_mask is {list(own.shape)}, the pass reads {[rows, positions]}; give its own")
    return starts
