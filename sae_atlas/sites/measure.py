"""Where the blocks of a model are read and patched, found by measurement: nothing is taken from a module's name.

A block adds resid_post - resid_pre to the stream. Two of its modules whose outputs add up to that give `attn_out` and
`mlp_out`; which is which is told by whether a part mixes tokens. Where the stream between them is what a module reads, that
is `resid_mid`; where no module holds a part, the part is the difference of two streams.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sae_atlas.io.errors import AtlasError
from sae_atlas.sites.block import Block, Trial, parts_of
from sae_atlas.sites.trace import Call, Slot, forward_pass, token_tensors, traced, trial_tokens

SAME = 8  # rounding steps of the model's precision by which the norms of logits that must be the same may differ


@dataclass(frozen=True)
class Sites:
    """Of a model: the path of its list of blocks, the blocks, and the modules from the last stream to the logits.

    before_logits: modules that the stream goes through one after another, the unembedding last; None where it goes through
    more than modules. causal: whether a token's logits depend on none of the tokens behind it.
    """

    path: str
    blocks: tuple[Block, ...]
    before_logits: tuple[str, ...] | None
    causal: bool

    def plain(self) -> dict:
        """For the model's record: of every block the modules that hold its sites, `in:` before those that read them.

        `gives`: site -> module whose output is the site's value as it stands.
        """
        return {
            "blocks": self.path,
            "before_logits": self.before_logits and list(self.before_logits),
            "layers": [
                {"sites": {site: str(point) for site, point in block.points.items()}, "gives": block.gives}
                for block in self.blocks
            ],
        }


_measured: WeakKeyDictionary[nn.Module, Sites] = WeakKeyDictionary()


def measure(model: nn.Module) -> Sites:
    """Measured once per model. Raises AtlasError, with what was measured, where no stream of blocks is found."""
    if model not in _measured:
        with torch.inference_mode():
            tokens = trial_tokens(model)
            _measured[model], logits = _measure(model, tokens)
            _check_starts(model, tokens, logits)
    return _measured[model]


def _measure(model: nn.Module, tokens: Tensor) -> tuple[Sites, Tensor]:
    """And the logits of the pass."""
    path, streams = _block_list(model, tokens)
    found: list[Block] = []
    with ExitStack() as stack:
        for number, (block, (slot_in, slot_out)) in enumerate(zip(model.get_submodule(path), streams, strict=True)):
            trial = Trial(f"{path}.{number}", block, slot_in, slot_out)
            stack.enter_context(trial.watched(lambda trial: found.append(parts_of(trial))))
        logits = forward_pass(model, tokens).logits
    before_logits = _tail(model, path, tokens, streams[-1][1])
    changed = tokens.clone()
    changed[:, -1] = tokens[:, 0]
    after = forward_pass(model, changed).logits
    causal = _missing(logits[:, :-1], after[:, :-1]) <= SAME * torch.finfo(model.dtype).eps
    return Sites(path, tuple(found), before_logits, causal), logits


def _block_list(model: nn.Module, tokens: Tensor) -> tuple[str, list[tuple[Slot, Slot]]]:
    """The longest list of modules in which each reads what the one before it gave, and where each reads and gives it."""
    lists = {name: list(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    names = {f"{name}.{number}": child for name, children in lists.items() for number, child in enumerate(children)}
    calls: list[Call] = []
    with traced(names, calls.append):
        forward_pass(model, tokens)
    chains = {}
    for name, children in lists.items():
        seen = [call for call in calls if call.module.rpartition(".")[0] == name]
        in_order = [call.module for call in seen] == [f"{name}.{number}" for number in range(len(children))]
        if children and in_order and (slots := _stream(seen)) is not None:
            chains[name] = slots
    if not chains:
        raise AtlasError(
            f"base_model: {type(model).__name__} has no list of blocks in which each reads what the one before it gave "
            f"(lists tried: {', '.join(lists) or 'none'}); its layers cannot be told apart"
        )
    path = max(chains, key=lambda name: (len(chains[name]), -name.count(".")))
    return path, chains[path]


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


def _tail(model: nn.Module, path: str, tokens: Tensor, last: Slot) -> tuple[str, ...] | None:
    """The modules from the last block's output to the logits, each of which reads what the one before it gave."""
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    if head is None:
        return None
    calls: list[Call] = []
    stream: list[Tensor] = []
    outside = {
        name: module
        for name, module in model.named_modules()
        if name and not name.startswith(f"{path}.") and not path.startswith(name)
    }
    final = model.get_submodule(path)[-1]
    handle = final.register_forward_hook(
        lambda _, __, output: stream.append(token_tensors(output if isinstance(output, tuple) else (output,))[0][1])
    )
    with traced(outside, lambda call: calls.append(call) if stream else None):
        forward_pass(model, tokens)
    handle.remove()
    chain = [next((call for call in calls if call.module == head), None)]
    while chain[0] is not None and chain[0].inputs:
        read = chain[0].inputs[0][1]
        if torch.equal(read, stream[0]):
            return tuple(call.module for call in chain)
        givers = [call for call in calls if call is not chain[0] and torch.equal(call.output, read)]
        if not givers or len(chain) > len(calls):
            return None
        chain.insert(0, min(givers, key=lambda call: call.depth))
    return None


def _check_starts(model: nn.Module, tokens: Tensor, logits: Tensor) -> None:
    """Raise AtlasError where a pass that starts at a later block does not give the logits of the whole pass."""
    from sae_atlas.sites.hooks import capture, start_at

    count = len(_measured[model].blocks)
    for start, site, layer in ((count // 2, "resid_pre", count // 2), (count, "resid_post", count - 1)):
        with capture(model, site, [layer]) as stream:
            forward_pass(model, tokens)
        with start_at(model, start, stream[layer]):
            missed = _missing(logits, forward_pass(model, tokens).logits)
        if not missed <= SAME * torch.finfo(model.dtype).eps:
            del _measured[model]
            raise AtlasError(
                f"base_model: {type(model).__name__} started from the stream at block {start} misses its own logits by "
                f"{missed:.0%}; more than the stream goes from block to block, so that no layer's loss can be measured"
            )


def _missing(value: Tensor, other: Tensor) -> float:
    """Share of the logits' norm; those that are no numbers, which the losses' own guard names, are left out."""
    value, other = (torch.nan_to_num(each.double(), 0, 0, 0) for each in (value, other))
    return float((value - other).norm() / value.norm())
