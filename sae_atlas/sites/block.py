"""One block of a model on trial: which of its modules hold what it adds to the stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor

from sae_atlas.sites.points import Block, Point
from sae_atlas.sites.streams import parts_between
from sae_atlas.sites.trace import Call
from sae_atlas.sites.trial import ADDS_UP, MIXES_NOTHING, Trial, move_first

PARTS = ("attn_out", "mlp_out", "mlp_in", "resid_mid")  # sites that a block need not have
SAME_PART = 0.05  # largest share of a part by which it may be off once it is added to the stream, in any precision


def parts_of(trial: Trial) -> Block:
    """The block's sites. Every part is held against what the block added."""
    whole = {
        "resid_pre": Point(trial.path, trial.slot_in, True),
        "resid_post": Point(trial.path, trial.slot_out, False),
    }
    added = trial.post.double() - trial.pre.double()
    holders = _holders(trial)

    def misses(value: Tensor) -> float:
        return float(((added - value).norm() - trial.rounding).clamp(min=0) / added.norm())

    parts = (
        _pair(holders, misses, added) or [(call, 1.0) for call in holders if misses(call.output.double()) < ADDS_UP][:1]
    )
    if not parts and (between := parts_between(trial, whole)) is not None:
        return between
    if not parts:
        closest = min((misses(a.output.double() + b.output.double()) for a, b in combinations(holders, 2)), default=1.0)
        reason = f"no two outputs of {trial.path} add up to what the block adds (the nearest miss it by {closest:.0%})"
        return Block(trial.path, whole, dict.fromkeys(PARTS, reason))
    return _named(trial, whole, parts)


def _holders(trial: Trial) -> list[Call]:
    """Calls whose output may be a part: one for every value of the stream's width, by the outermost module that computes it.

    A module that is called twice in the block is none: a patch would reach both calls.
    """
    names = [call.module for call in trial.calls]
    best: list[Call] = []
    for call in trial.calls:
        value = call.output
        if names.count(call.module) > 1 or value.shape != trial.pre.shape or not value.any():
            continue
        if torch.equal(value, trial.pre) or torch.equal(value, trial.post):
            continue
        twin = next((number for number, known in enumerate(best) if torch.equal(known.output, value)), None)
        if twin is None:
            best.append(call)
        elif (call.has_matrix, -call.depth) > (best[twin].has_matrix, -best[twin].depth):
            best[twin] = call
    return best


def _pair(holders: list[Call], misses: Callable, added: Tensor) -> list[tuple[Call, float]] | None:
    """Two parts that add up to what the block adds, as they stand or each times a number; the outermost modules first."""
    pairs = sorted(combinations(holders, 2), key=lambda pair: pair[0].depth + pair[1].depth)
    for a, b in pairs:
        if misses(a.output.double() + b.output.double()) < ADDS_UP:
            return [(a, 1.0), (b, 1.0)]
    for a, b in pairs:
        both = torch.stack([a.output.double().flatten(), b.output.double().flatten()], dim=1)
        factors = torch.linalg.lstsq(both, added.flatten()[:, None]).solution[:, 0]
        least = float((both.norm(dim=0) * factors).min())  # a part that may be missing is none
        if least > ADDS_UP * added.norm() and misses((both @ factors).view_as(added)) < ADDS_UP:
            return [(a, float(factors[0])), (b, float(factors[1]))]
    return None


def _named(trial: Trial, points: dict[str, Point], parts: list[tuple[Call, float]]) -> Block:
    """Which part is the attention's: the one that mixes tokens; and what the other, the MLP, reads."""
    lacks: dict[str, str] = {}
    moved = trial.again({points["resid_pre"]: move_first})
    mixes = [not _keeps_later(call, moved, first=1) for call, _ in parts]
    middle = _middle(trial, *parts[0]) if len(parts) == 2 else None
    if len(parts) == 1:
        attention, mlp = (parts[0], None) if mixes[0] else (None, parts[0])
    elif middle is not None or mixes[0] != mixes[1]:
        attention, mlp = parts if mixes[0] else parts[::-1]
    else:
        reason = f"{'both' if mixes[0] else 'none'} of the two parts that {trial.path} adds mix tokens"
        return Block(trial.path, points, dict.fromkeys(PARTS, reason))
    if attention is None:
        lacks["attn_out"] = f"{trial.path} adds one part, {_path(trial, mlp[0])}, which mixes no tokens"
    else:
        points["attn_out"] = _output(trial, *attention)
    if middle is None or attention is not parts[0]:
        lacks["resid_mid"] = f"no module of {trial.path} reads the stream after attention and before the MLP"
    else:
        points["resid_mid"] = replace(points["attn_out"], stream=points["resid_pre"])
    if mlp is None:
        reason = f"{trial.path} adds one part, {_path(trial, attention[0])}, which mixes tokens"
    else:
        reads = _mlp_input(trial, mlp[0], trial.pre if middle is None else middle)
        if reads is None or _keeps_later(
            mlp[0], trial.again({reads: move_first}), first=2
        ):  # RWKV's reads its neighbour
            points["mlp_out"] = _output(trial, *mlp)
        if "mlp_out" in points and reads is not None:
            points["mlp_in"] = reads
        reason = f"{_path(trial, mlp[0])}, which {trial.path} adds too, mixes tokens or has no input of its own"
    lacks |= {site: reason for site in PARTS if site not in points and site not in lacks}
    return Block(trial.path, points, lacks, _gives(trial, points))


def _middle(trial: Trial, part: Call, factor: float) -> Tensor | None:
    """The stream to which the first part was added, if a module reads it."""
    added = part.output if factor == 1 else part.output * factor
    for call in trial.calls:
        for _, value in call.inputs:
            if torch.equal(value, trial.pre + added):
                return value
            off = value.double() - trial.pre - added if value.shape == added.shape else None
            if off is not None and off.norm() < SAME_PART * added.double().norm():  # added in another precision
                return value
    return None


def _gives(trial: Trial, points: dict[str, Point]) -> dict[str, str]:
    """Site -> module whose output is its value as it stands."""
    gives = {
        site: point.module
        for site, point in points.items()
        if not point.is_input and point.factor == 1 and point.stream is None
    }
    if "mlp_in" in points:
        point = points["mlp_in"]
        reader = next(call for call in trial.calls if _path(trial, call) == point.module)
        giver = _outermost(trial, dict(reader.inputs)[point.slot])
        if giver is not None:
            gives["mlp_in"] = _path(trial, giver)
    return gives


def _mlp_input(trial: Trial, part: Call, stream: Tensor) -> Point | None:
    """The input of the first module with a matrix on the way from the stream to the MLP's part."""
    chain = [_outermost(trial, part.output)]
    while chain[0].inputs and not any(torch.equal(value, stream) for _, value in chain[0].inputs):
        earlier = [
            giver for _, value in chain[0].inputs if (giver := _outermost(trial, value, before=chain[0])) is not None
        ]
        if not earlier or len(chain) > len(trial.calls):
            break
        chain.insert(0, earlier[0])
    first = next((call for call in chain if call.has_matrix and call.inputs), None)
    if first is None:
        return None
    slot, value = first.inputs[0]
    around = [
        call
        for call in trial.calls
        if f"{first.module}.".startswith(f"{call.module}.")
        and any(torch.equal(given, value) for _, given in call.inputs)
    ]
    outer = min(around, key=lambda call: call.depth)
    slot = next(slot for slot, given in outer.inputs if torch.equal(given, value))
    return Point(_path(trial, outer), slot, True)


def _outermost(trial: Trial, value: Tensor, before: Call | None = None) -> Call | None:
    """The outermost module that gives this value; one that computes rather than one that hands it on.

    The last of several: norms that are yet to be trained give the same of the same stream.
    """
    givers = [
        (call.has_matrix, -call.depth, number)
        for number, call in enumerate(trial.calls)
        if call is not before and call.output.shape == value.shape and torch.equal(call.output, value)
    ]
    return trial.calls[max(givers)[-1]] if givers else None


def _output(trial: Trial, call: Call, factor: float) -> Point:
    return Point(_path(trial, call), call.outputs[0][0], False, 1.0 if abs(factor - 1) < ADDS_UP else factor)


def _path(trial: Trial, call: Call) -> str:
    return f"{trial.path}.{call.module}"


def _keeps_later(part: Call, calls: list[Call], first: int) -> bool:
    """Whether a part is the same, but for rounding, from the token `first` on."""
    now = next(call.output for call in calls if call.module == part.module)[:, first:].double()
    before = part.output[:, first:].double()
    return bool((now - before).norm() <= (MIXES_NOTHING + torch.finfo(part.output.dtype).eps) * before.norm())
