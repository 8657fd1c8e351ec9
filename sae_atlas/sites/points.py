"""Points of a model that were found: values read and replaced there, and passes that start at a later block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from sae_atlas.sites import MODULE_INPUT
from sae_atlas.sites.trace import Slot


@dataclass(frozen=True)
class Point:
    """Where a value is: among a module's arguments (`is_input`) or its outputs. The site's value is `factor` times that.

    stream: a point of the stream before it, which is added to that (sign 1), or which it is the difference to (sign -1).
    carried: where the block adds to a copy of the stream that it keeps; a change of the site is made there too.
    """

    module: str
    slot: Slot
    is_input: bool
    factor: float = 1.0
    stream: Point | None = None
    sign: int = 1
    carried: Point | None = None

    def __str__(self) -> str:
        own = f"{MODULE_INPUT}{self.module}" if self.is_input else self.module
        if self.stream is None:
            return own
        of_block = self.module.startswith(f"{self.stream.module}.")
        stream = "resid_pre" if of_block else str(self.stream)
        return f"{stream} + {own}" if self.sign == 1 else f"{own} - {stream}"


@dataclass(frozen=True)
class Block:
    """The points of a block's sites, and of the sites that it lacks what was measured.

    gives: site -> module whose output is the site's value as it stands, for those who read outputs alone.
    """

    module: str
    points: dict[str, Point]
    lacks: dict[str, str] = field(default_factory=dict)
    gives: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sites:
    """Of a model: the path of its list of blocks, the blocks, and the modules from the last stream to the logits.

    before_logits: modules that the stream goes through one after another, the unembedding last; None where it goes through
    more than modules. causal: whether a token's logits depend on none of the tokens behind it. slots: where every module reads
    (True) or gives (False) an activation per token, or in words what it does instead.
    """

    path: str
    blocks: tuple[Block, ...]
    before_logits: tuple[str, ...] | None
    causal: bool
    slots: dict[bool, dict[str, Slot | str]]

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


@contextmanager
def hooked(model: nn.Module, sites: Sites, point: Point, see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Hook a point: `see` gets the activation [batch, context, d]; what it returns, if anything, takes its place.

    What is returned goes to the activation's device.
    """
    seen: dict[str, Tensor] = {}  # in this pass: what the block read, the stream beside the site, what a change adds

    def visit(value: Tensor) -> Tensor | None:
        part = value.unflatten(0, seen["read"].shape[:2]) if point.slot.flat else value
        whole = part if point.factor == 1 else part * point.factor
        stream = point.sign * seen["stream"].to(part.device).view_as(part) if point.stream else None
        changed = see(whole if stream is None else whole + stream)
        if changed is None:
            return None
        changed = changed.to(part.device)
        if stream is not None:
            changed = changed - stream
        if point.factor != 1:
            changed = changed / point.factor
        if point.carried:
            seen["added"] = changed - part
        return changed.reshape(value.shape)

    def carry(value: Tensor) -> Tensor | None:
        return value + seen.pop("added").to(value.device).view_as(value) if "added" in seen else None

    with ExitStack() as stack:
        if point.slot.flat:
            block = next(block for block in sites.blocks if point.module.startswith(f"{block.module}."))
            stack.enter_context(_at(model, block.points["resid_pre"], lambda value: seen.update(read=value)))
        if point.stream:  # copied: some blocks change it in place before the site is reached
            stack.enter_context(_at(model, point.stream, lambda value: seen.update(stream=value.clone())))
        stack.enter_context(_at(model, point, visit))
        if point.carried:
            stack.enter_context(_at(model, point.carried, carry))
        yield


@contextmanager
def _at(model: nn.Module, point: Point, visit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Inside the `with`, `visit` gets what the module itself has there; what it returns, if anything, takes its place."""

    def into(_, args: tuple, named: dict):
        changed = visit(point.slot.read(args, named))
        return None if changed is None else point.slot.replace(changed, args, named)

    def out_of(_, __, output):
        if not isinstance(output, tuple | list):
            return visit(output)
        changed = visit(point.slot.read(output, {}))
        return None if changed is None else point.slot.replace(changed, output, {})[0]

    module = model.get_submodule(point.module)
    if point.is_input:
        handle = module.register_forward_pre_hook(into, with_kwargs=True)
    else:
        handle = module.register_forward_hook(out_of)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def started(model: nn.Module, sites: Sites, layer: int, residual: Tensor) -> Iterator[None]:
    """Inside the `with`, the blocks before `layer` are skipped and block `layer` reads `residual` [batch, context, d].

    `layer` may be the number of blocks: then only what comes behind them is run. The blocks stay where they are (some
    models choose masks by block index); only their forward is replaced.
    """
    skipped = [model.get_submodule(block.module) for block in sites.blocks[:layer]]
    own = [vars(block).get("forward") for block in skipped]  # accelerate puts its own there
    for block, about in zip(skipped, sites.blocks, strict=False):
        block.forward = _given(residual, about.points["resid_post"].slot)
    try:
        with ExitStack() as stack:
            if layer < len(sites.blocks):
                stack.enter_context(hooked(model, sites, sites.blocks[layer].points["resid_pre"], lambda _: residual))
            yield
    finally:
        for block, forward in zip(skipped, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _given(residual: Tensor, slot: Slot) -> Callable:
    """A forward that gives the stream where the block gave it, and nothing in the place of what else it gave."""
    if slot.outputs is None:
        return lambda *_, **__: residual
    return lambda *_, **__: tuple(residual if index == slot.key else None for index in range(slot.outputs))
