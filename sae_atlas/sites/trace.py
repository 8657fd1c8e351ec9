"""What the modules of a model read and give in one small forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

CONTEXTS, TOKENS = 2, 8  # of the pass: two numbers, so that no axis is taken for another
ORDINARY = 256  # ids below this are tried


@dataclass(frozen=True)
class Slot:
    """Which of a module's arguments or outputs a tensor is: a place or a name; None where it is the only output.

    flat: it is [batch x context, d] and not [batch, context, d]. outputs: how many the module gives, None of one alone.
    """

    key: int | str | None = None
    flat: bool = False
    outputs: int | None = None

    def read(self, args: tuple, named: dict) -> Tensor:
        return named[self.key] if isinstance(self.key, str) else args[self.key or 0]

    def replace(self, value: Tensor, args: tuple, named: dict) -> tuple[tuple, dict]:
        if isinstance(self.key, str):
            return args, named | {self.key: value}
        index = self.key or 0
        return (*args[:index], value, *args[index + 1 :]), named


@dataclass(frozen=True)
class Call:
    """One call of a module: its tensors that hold an activation per token, as [batch, context, d], copied."""

    module: str
    inputs: list[tuple[Slot, Tensor]]
    outputs: list[tuple[Slot, Tensor]]
    has_matrix: bool

    @property
    def depth(self) -> int:
        return self.module.count(".")

    @property
    def output(self) -> Tensor:
        return self.outputs[0][1]


def forward_pass(model: nn.Module, tokens: Tensor, last_only: bool = False):
    """A forward pass without a cache, with the arguments that this model's forward knows. last_only: logits of one position."""
    known = inspect.signature(model.forward).parameters
    wanted = {"use_cache": False} | ({"logits_to_keep": 1} if last_only else {})
    config = model.config.get_text_config()
    keeps, config.use_cache = getattr(config, "use_cache", False), False  # some forwards take it from there alone
    try:
        return model(tokens, **{name: value for name, value in wanted.items() if name in known})
    finally:
        config.use_cache = keeps


def trial_tokens(model: nn.Module) -> Tensor:
    """Ids [2, 8], all different where the vocabulary allows, none that the config calls special."""
    config = model.config.get_text_config()
    special = {value for name, value in vars(config).items() if name.endswith("token_id") if isinstance(value, int)}
    ordinary = [number for number in range(1, min(config.vocab_size, ORDINARY)) if number not in special]
    stride = 7 if len(ordinary) % 7 else 1
    chosen = torch.arange(CONTEXTS * TOKENS) * stride % len(ordinary)
    return torch.tensor(ordinary)[chosen].reshape(CONTEXTS, TOKENS).to(model.device)


def token_tensors(args: tuple, named: dict | None = None) -> list[tuple[Slot, Tensor]]:
    """Those of the values that hold an activation for every token of the trial, copied as [2, 8, d]."""
    tensors = []
    for key, value in [*enumerate(args), *(named or {}).items()]:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if value.ndim == 3 and value.shape[:2] == (CONTEXTS, TOKENS):
            tensors.append((Slot(key), value.clone()))
        elif value.ndim == 2 and len(value) == CONTEXTS * TOKENS:
            tensors.append((Slot(key, flat=True), value.clone().unflatten(0, (CONTEXTS, TOKENS))))
    return tensors


def output_tensors(output) -> list[tuple[Slot, Tensor]]:
    if isinstance(output, Tensor):
        return [(Slot(None, slot.flat), value) for slot, value in token_tensors((output,))]
    if not isinstance(output, tuple | list):
        return []
    return [(replace(slot, outputs=len(output)), value) for slot, value in token_tensors(output)]


@contextmanager
def traced(modules: dict[str, nn.Module], on_call: Callable[[Call], None]) -> Iterator[None]:
    """Inside the `with`, every call of these modules is told when it ends."""
    begun: dict[str, list] = {}

    def before(name: str, args: tuple, named: dict) -> None:
        begun[name] = token_tensors(args, named)

    def after(name: str, module: nn.Module, output) -> None:
        outputs = output_tensors(output)
        if outputs:
            on_call(Call(name, begun[name], outputs, any(weight.ndim > 1 for weight in module.parameters())))

    handles = []
    for name, module in modules.items():
        handles += [
            module.register_forward_pre_hook(
                lambda _, args, named, name=name: before(name, args, named), with_kwargs=True
            ),
            module.register_forward_hook(lambda module, _, output, name=name: after(name, module, output)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def module_slots(model: nn.Module) -> Iterator[dict[bool, dict[str, Slot | str]]]:
    """Yield a dict that one pass of the trial's tokens inside the `with` fills: where each module reads (True) or gives (False)
    an activation per token, or in words what it does instead.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    calls: dict[bool, dict[str, list]] = {is_input: {name: [] for name in modules} for is_input in (True, False)}

    def keep(name: str, args: tuple, named: dict, output) -> None:
        outputs = output if isinstance(output, tuple | list) else [output]
        for is_input, tensors, values in (
            (True, token_tensors(args, named), [*args, *named.values()]),
            (False, output_tensors(output), outputs),
        ):
            shapes = [f"[{', '.join(map(str, value.shape))}]" for value in values if isinstance(value, Tensor)]
            calls[is_input][name].append(([slot for slot, _ in tensors], shapes))

    handles = [
        module.register_forward_hook(
            lambda _, args, named, output, name=name: keep(name, args, named, output), with_kwargs=True
        )
        for name, module in modules.items()
    ]
    slots: dict[bool, dict[str, Slot | str]] = {}
    try:
        yield slots
    finally:
        for handle in handles:
            handle.remove()
    for is_input, of_modules in calls.items():
        slots[is_input] = {name: _only_slot(seen) for name, seen in of_modules.items()}


def _only_slot(seen: list[tuple[list[Slot], list[str]]]) -> Slot | str:
    if len(seen) != 1:
        return f"is run {len(seen)} times in a pass" if seen else "is not run in a pass"
    slots, shapes = seen[0]
    if not slots:
        tokens = f"{CONTEXTS} contexts of {TOKENS} tokens"
        return f"holds {', '.join(shapes) or 'no array'} for {tokens}; a site has one activation per token, [batch, context, d]"
    return slots[0]
