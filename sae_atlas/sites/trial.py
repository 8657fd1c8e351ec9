"""One block of a model on trial: what its modules read and gave in a small pass, and again where something is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from sae_atlas.sites.points import Point
from sae_atlas.sites.trace import CONTEXTS, TOKENS, Call, Slot, traced

ADDS_UP = 1e-3  # largest share of a value that may be missing from a sum, beyond rounding
# Largest share by which a part that mixes no tokens may move with another token, beyond rounding: experts work on the tokens
# that chose them, and sum in another order with another number of them.
MIXES_NOTHING = 1e-5


@contextmanager
def in_float32(block: nn.Module) -> Iterator[list[torch.dtype]]:
    """Inside the `with`, the block computes in float32 from its own weights; what it is given and gives stays as it is.

    In 16 bits a stream of large values hides what a block adds to it in its rounding. One block at a time is as large as that.
    A block whose weights lie elsewhere until they are used computes as it does. Yields the precision of what it was given.
    """
    weights = [*block.parameters(), *block.buffers()]
    short = [weight for weight in weights if weight.dtype in (torch.float16, torch.bfloat16)]
    given: list[torch.dtype] = []
    if not short or any(weight.is_meta for weight in weights):
        yield given
        return
    own: list[list[Tensor]] = []  # of the calls that are running: a block is called again inside its own call

    def widen(_, args, named):
        own.append([weight.data for weight in short])
        if len(own) > 1:
            return None
        given[:] = [
            value.dtype for value in (*args, *named.values()) if isinstance(value, Tensor) and value.is_floating_point()
        ]
        with torch.inference_mode(False), torch.no_grad():
            for weight in short:
                weight.data = weight.data.float()
        return _cast(args, torch.float32), _cast(named, torch.float32)

    def narrow(_, __, output):
        before = own.pop()
        if own:
            return None
        for weight, data in zip(short, before, strict=True):
            weight.data = data
        return _cast(output, given[0])

    handles = [
        block.register_forward_pre_hook(widen, with_kwargs=True, prepend=True),
        block.register_forward_hook(narrow),
    ]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


def _cast(value, dtype: torch.dtype):
    """A value with its floating-point tensors, also those in tuples, lists and dictionaries, in another precision."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(_cast(each, dtype) for each in value)
    if type(value) is dict:
        return {name: _cast(each, dtype) for name, each in value.items()}
    return value


class Trial:
    """A block, what it read and gave in the trial pass, the calls of its modules, and the same again with a change."""

    def __init__(self, path: str, block: nn.Module, slot_in: Slot, slot_out: Slot):
        self.path, self.block, self.slot_in, self.slot_out = path, block, slot_in, slot_out
        self.modules = {name: module for name, module in block.named_modules() if name}
        self.calls: list[Call] = []

    @contextmanager
    def watched(self, then: Callable[[Trial], None]) -> Iterator[None]:
        """Inside the `with`, the block's first call is recorded and `then` called with the trial when it ends."""
        running = False

        def whole(call: Call) -> None:
            self.pre = next(value for slot, value in call.inputs if slot == self.slot_in)
            self.post = next(value for slot, value in call.outputs if slot == self.slot_out)

        def begin(_, args, named) -> None:
            nonlocal running
            if not running:
                self.arguments = args, named
                self.calls.clear()

        def end(_, __, ___) -> None:
            nonlocal running
            if not running:
                running = True
                then(self)
                self.calls.clear()

        with (
            traced({"": self.block}, lambda call: self.calls.append(call) if running else whole(call)),
            traced(self.modules, self.calls.append),
        ):
            handles = [
                self.block.register_forward_pre_hook(begin, with_kwargs=True),
                self.block.register_forward_hook(end),
            ]
            try:
                with in_float32(self.block) as self.given:  # last: these hooks see what float32 gives
                    yield
            finally:
                for handle in handles:
                    handle.remove()

    @property
    def rounding(self) -> Tensor:
        """The norm by which a sum on the stream may be off."""
        return 4 * torch.finfo(self.post.dtype).eps * self.post.double().norm()

    def stream(self, value: Tensor) -> Tensor:
        """A value of the stream in the precision in which the model has it."""
        return value.to(self.given[0]) if self.given else value

    def again(self, changes: dict[Point, Callable[[Tensor], Tensor]]) -> list[Call]:
        """The calls of the block's modules, and last the block's own, where the values that go in at these points are changed.

        What a call names as its input there is the value before the change.
        """
        first, self.calls[:] = self.calls[:], []
        args, named = self.arguments
        with ExitStack() as stack:
            for at, change in changes.items():
                module = self.block if at.module == self.path else self.modules[at.module.removeprefix(f"{self.path}.")]
                stack.enter_context(_changed(module, at.slot, change))
            self.block(*args, **named)
        calls, self.calls[:] = self.calls[:], first
        return calls


@contextmanager
def _changed(module: nn.Module, slot: Slot, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def changed(_, args, named):
        value = slot.read(args, named)
        return slot.replace(change(value.view(CONTEXTS, TOKENS, -1)).view_as(value), args, named)

    handle = module.register_forward_pre_hook(changed, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def move_first(value: Tensor) -> Tensor:
    """Another activation at every context's first token."""
    moved = value.clone()
    moved[:, 0] = value[:, -1] - value[:, 0]
    return moved
