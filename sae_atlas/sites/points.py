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
    """Where a value is: among a module's arguments (`is_input`) or its outputs. The site's value is `factor` times that."""

    module: str
    slot: Slot
    is_input: bool
    factor: float = 1.0
    onto_stream: bool = False  # the site is the block's input plus that

    def __str__(self) -> str:
        if self.onto_stream:
            return f"resid_pre + {self.module}"
        return f"{MODULE_INPUT}{self.module}" if self.is_input else self.module


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


@contextmanager
def hooked(model: nn.Module, sites: Sites, point: Point, see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Hook a point: `see` gets the activation [batch, context, d]; what it returns, if anything, takes its place.

    Of a site that is a part onto the stream `see` gets the sum, and a change is made through the part, for the block keeps
    its own copy of the stream. What is returned goes to the activation's device.
    """
    entering: list[Tensor] = []  # the stream that the block reads

    def visit(value: Tensor) -> Tensor | None:
        part = value.unflatten(0, entering[-1].shape[:2]) if point.slot.flat else value
        whole = part if point.factor == 1 else part * point.factor
        changed = see(whole + entering[-1].to(part.device) if point.onto_stream else whole)
        if changed is None:
            return None
        changed = changed.to(part.device)
        if point.onto_stream:
            changed = changed - entering[-1].to(part.device)
        return (changed if point.factor == 1 else changed / point.factor).reshape(value.shape)

    def into(_, args: tuple, named: dict):
        changed = visit(point.slot.read(args, named))
        return None if changed is None else point.slot.replace(changed, args, named)

    def out_of(_, __, output):
        if not isinstance(output, tuple | list):
            return visit(output)
        changed = visit(point.slot.read(output, {}))
        return None if changed is None else point.slot.replace(changed, output, {})[0]

    module = model.get_submodule(point.module)
    handles = []
    if point.onto_stream or point.slot.flat:
        block = next(block for block in sites.blocks if point.module.startswith(f"{block.module}."))
        stream = block.points["resid_pre"].slot
        handles.append(
            model.get_submodule(block.module).register_forward_pre_hook(
                lambda _, args, named: entering.__setitem__(slice(None), [stream.read(args, named)]), with_kwargs=True
            )
        )
    if point.is_input:
        handles.append(module.register_forward_pre_hook(into, with_kwargs=True))
    else:
        handles.append(module.register_forward_hook(out_of))
    try:
        yield
    finally:
        for handle in handles:
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
    return lambda *_, **__: tuple(residual if place == slot.key else None for place in range(slot.outputs))
