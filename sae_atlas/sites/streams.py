"""Parts of a block that none of its modules holds, as differences of the stream before and after them.

Falcon-H1 adds the outputs of its attention and of its state space model at once; Granite's hybrids add those of their experts
and of an MLP that all tokens share. No two modules hold what such a block adds, but a module reads the stream between the
parts. That the parts are what the stream gains is held against the block itself: with another stream going in, and what a
part reads kept as it was, the part must be the same.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sae_atlas.sites.points import Block, Point
from sae_atlas.sites.trace import Call
from sae_atlas.sites.trial import ADDS_UP, MIXES_NOTHING, Trial, move_first


def parts_between(trial: Trial, whole: dict[str, Point]) -> Block | None:
    """The block's sites from the stream that is read between its two parts, the first of which mixes tokens; None without one.

    whole: the points of resid_pre and resid_post.
    """
    pre = whole["resid_pre"]
    first = _reader(trial, trial.pre)
    if first is None:
        return None
    all_moved = trial.again({pre: _move_all, first[1]: lambda _: trial.pre})
    first_moved = trial.again({pre: move_first})
    tried: list[Tensor] = []
    for middle in (value for call in trial.calls for _, value in call.inputs):
        if middle.shape != trial.pre.shape or any(torch.equal(middle, other) for other in (trial.pre, *tried)):
            continue
        tried.append(middle)
        reader = _reader(trial, middle)
        if reader is None or not _same(
            trial, _read(trial, all_moved, reader[1]) - _move_all(trial.pre), middle - trial.pre
        ):
            continue
        mixes = not _same_later(trial, _read(trial, first_moved, reader[1]) - move_first(trial.pre), middle - trial.pre)
        if mixes and _is_added(trial, whole, reader[1], middle):
            return _block(trial, whole, *reader)
    return None


def _is_added(trial: Trial, whole: dict[str, Point], reader: Point, middle: Tensor) -> bool:
    """Whether the block gives `middle` and a part that depends on nothing but what `reader` reads, token by token."""
    part = trial.post - middle
    calls = trial.again({whole["resid_pre"]: _move_all, reader: lambda _: middle})
    alone = trial.again({reader: move_first})
    same = _same(trial, _given(trial, calls) - _read(trial, calls, reader), part)
    return same and _same_later(trial, _given(trial, alone) - middle, part)


def _block(trial: Trial, whole: dict[str, Point], call: Call, reader: Point) -> Block:
    pre, post = whole["resid_pre"], whole["resid_post"]
    points = whole | {
        "resid_mid": replace(reader, carried=post),
        "attn_out": replace(reader, stream=pre, sign=-1, carried=post),
        "mlp_out": replace(post, stream=reader, sign=-1),
    }
    gives, lacks = {"resid_post": post.module}, {}
    if call.has_matrix:
        lacks["mlp_in"] = f"{reader.module} reads the stream and holds the MLP too"
    else:
        points["mlp_in"] = Point(reader.module, call.outputs[0][0], False)
        gives["mlp_in"] = reader.module
    return Block(trial.path, points, lacks, gives)


def _reader(trial: Trial, value: Tensor) -> tuple[Call, Point] | None:
    """The outermost module that reads this value, and where; None where no module of one call does."""
    names = [call.module for call in trial.calls]
    readers = [
        (call, Point(f"{trial.path}.{call.module}", slot, True))
        for call in trial.calls
        for slot, given in call.inputs
        if names.count(call.module) == 1 and torch.equal(given, value)
    ]
    return min(readers, key=lambda pair: pair[0].depth) if readers else None


def _read(trial: Trial, calls: list[Call], point: Point) -> Tensor:
    """What a module read, before any change of that; no numbers where it was not called."""
    inputs = next((call.inputs for call in calls if f"{trial.path}.{call.module}" == point.module), [])
    return dict(inputs).get(point.slot, torch.full_like(trial.pre, torch.nan))


def _given(trial: Trial, calls: list[Call]) -> Tensor:
    return dict(calls[-1].outputs)[trial.slot_out]


def _move_all(value: Tensor) -> Tensor:
    """Another activation at every token."""
    return value.roll(1, dims=1)


def _same_later(trial: Trial, value: Tensor, expected: Tensor) -> bool:
    """Whether a part is the same at every token but a context's first, which alone was changed."""
    return _same(trial, value[:, 1:], expected[:, 1:], MIXES_NOTHING)


def _same(trial: Trial, value: Tensor, expected: Tensor, share: float = ADDS_UP) -> bool:
    off = (value.double() - expected.double()).norm()
    return bool(off <= share * expected.double().norm() + trial.rounding)
