"""Where the blocks of a model are read and patched, found by measurement: nothing is taken from a module's name.

A block adds resid_post - resid_pre to the stream. Two of its modules whose outputs add up to that give `attn_out` and
`mlp_out`; which is which is told by whether a part mixes tokens. Where the stream between them is what a module reads, that
is `resid_mid`. Parts that no module holds are differences of that stream (streams.py), or no sites.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.sites.block import parts_of
from sae_atlas.sites.points import Block, Sites, started
from sae_atlas.sites.trace import Call, Slot, forward_pass, module_slots, traced, trial_tokens
from sae_atlas.sites.trial import Trial

SAME = 8  # rounding steps of the model's precision by which the norms of logits that must be the same may differ

_measured: WeakKeyDictionary[nn.Module, Sites] = WeakKeyDictionary()


def measure(model: nn.Module) -> Sites:
    """Measured once per model. Raises AtlasError, with what was measured, where no stream of blocks is found."""
    if model not in _measured:
        with torch.inference_mode():
            _measured[model] = _measure(model, trial_tokens(model))
    return _measured[model]


def _measure(model: nn.Module, tokens: Tensor) -> Sites:
    with module_slots(model) as of_modules:
        path, slots, streams, logits = _block_list(model, tokens)
    blocks: list[Block] = []
    final: list[Tensor] = []  # the stream after the last block
    behind: list[Call] = []  # calls after it

    def block_ended(trial: Trial) -> None:
        blocks.append(parts_of(trial))
        if len(blocks) == len(slots):
            final.append(trial.stream(trial.post))

    outside = {
        name: module
        for name, module in model.named_modules()
        if name and not name.startswith(f"{path}.") and not f"{path}.".startswith(f"{name}.")
    }
    with ExitStack() as stack:
        for number, (block, (slot_in, slot_out)) in enumerate(zip(model.get_submodule(path), slots, strict=True)):
            stack.enter_context(Trial(f"{path}.{number}", block, slot_in, slot_out).watched(block_ended))
        stack.enter_context(traced(outside, lambda call: behind.append(call) if final else None))
        forward_pass(model, tokens)
    changed = tokens.clone()
    first, second, last = tokens[:, 0], tokens[:, 1], tokens[:, -1]
    changed[:, -1] = torch.where(last == first, second, first)  # a small vocabulary repeats itself
    after = forward_pass(model, changed).logits
    causal = _missing(logits[:, :-1], after[:, :-1]) <= SAME * torch.finfo(model.dtype).eps
    sites = Sites(path, tuple(blocks), _before_logits(model, behind, final[0]), causal, of_modules)
    for start, stream in streams.items():
        _check_start(model, sites, tokens, logits, start, stream)
    return sites


def _block_list(model: nn.Module, tokens: Tensor) -> tuple[str, list[tuple[Slot, Slot]], dict[int, Tensor], Tensor]:
    """The longest list of modules in which each reads what the one before it gave, and where each reads and gives it.

    Also the streams that the block in the middle reads and that the last one gives, by the block that is to read them, and
    the logits of the pass.
    """
    lists = {name: list(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    names = {f"{name}.{number}": child for name, children in lists.items() for number, child in enumerate(children)}
    calls: list[Call] = []
    with traced(names, calls.append):
        logits = forward_pass(model, tokens).logits
    chains = {}
    for name, children in lists.items():
        seen = [call for call in calls if call.module.rpartition(".")[0] == name]
        in_order = [call.module for call in seen] == [f"{name}.{number}" for number in range(len(children))]
        if children and in_order and (slots := _stream(seen)) is not None:
            chains[name] = slots, seen
    if not chains:
        raise AtlasError(
            f"base_model: {type(model).__name__} has no list of blocks in which each reads what the one before it gave "
            f"(lists tried: {', '.join(lists) or 'none'}); its layers cannot be told apart"
        )
    path = max(chains, key=lambda name: (len(chains[name][0]), -name.count(".")))
    slots, seen = chains[path]
    middle = len(seen) // 2
    return path, slots, {middle: dict(seen[middle].inputs)[slots[middle][0]], len(seen): seen[-1].output}, logits


def _stream(seen: list[Call]) -> list[tuple[Slot, Slot]] | None:
    """Of consecutive blocks the slots that hold the stream; None where one does not read what the one before it gave."""
    reads: list[Slot | None] = [None]
    for before, after in pairwise(seen):
        reads.append(next((slot for slot, value in after.inputs if torch.equal(value, before.output)), None))
        if reads[-1] is None:
            return None
    if not seen[0].inputs:
        return None
    first = seen[0].inputs[0][0]
    if len(reads) > 1 and any(slot == reads[1] for slot, _ in seen[0].inputs):
        first = reads[1]
    return [(slot or first, call.outputs[0][0]) for slot, call in zip(reads, seen, strict=True)]


def _before_logits(model: nn.Module, calls: list[Call], stream: Tensor) -> tuple[str, ...] | None:
    """The modules from the last block's output to the logits, each of which reads what the one before it gave."""
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    chain = [next((call for call in calls if call.module == head), None)]
    while chain[0] is not None and chain[0].inputs:
        read = chain[0].inputs[0][1]
        if torch.equal(read, stream):
            return tuple(call.module for call in chain)
        givers = [call for call in calls if call is not chain[0] and torch.equal(call.output, read)]
        if not givers or len(chain) > len(calls):
            return None
        chain.insert(0, min(givers, key=lambda call: call.depth))
    return None


def _check_start(model: nn.Module, sites: Sites, tokens: Tensor, logits: Tensor, block: int, stream: Tensor) -> None:
    """Raise AtlasError where a pass that starts at a later block does not give the logits of the whole pass."""
    try:
        with started(model, sites, block, stream):
            missed = _missing(logits, forward_pass(model, tokens).logits)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:  # of the model's own code
        raise AtlasError(
            f"base_model: {type(model).__name__} cannot be started from the stream at block {block} ({reason(error)}), so that "
            "no layer's loss can be measured"
        ) from error
    if not missed <= SAME * torch.finfo(model.dtype).eps:
        raise AtlasError(
            f"base_model: {type(model).__name__} started from the stream at block {block} misses its own logits by "
            f"{missed:.0%}; more than the stream goes from block to block, so that no layer's loss can be measured"
        )


def _missing(value: Tensor, other: Tensor) -> float:
    """Share of the logits' norm; those that are no numbers, which the losses' own guard names, are left out."""
    value, other = (torch.nan_to_num(each.double(), 0, 0, 0) for each in (value, other))
    return float((value - other).norm() / value.norm())
