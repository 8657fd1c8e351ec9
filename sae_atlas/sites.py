"""Sites: where in a block activations are read and patched, by name and model family or by module path."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_atlas.io.errors import AtlasError

if TYPE_CHECKING:  # at run time the plan reads the names of sites without loading torch
    from torch import Tensor, nn

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out")
INTO_STREAM = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
)  # the stream itself, or what is added to it
INPUTS = ("resid_pre", "mlp_in")  # what goes into a module; the others come out of one, or lie between two


@dataclass(frozen=True)
class Family:
    """Where a model family keeps its blocks, their attention and MLP, and the norm before the unembedding."""

    blocks: str
    attention: str
    mlp: str
    norm: str


FAMILIES = (
    # Llama and what follows its names: SmolLM2, Mistral, Qwen, Bielik.
    Family("model.layers", "self_attn", "mlp", "model.norm"),
    Family("gpt_neox.layers", "attention", "mlp", "gpt_neox.final_layer_norm"),  # Pythia
    Family("transformer.h", "attn", "mlp", "transformer.ln_f"),  # GPT-2
    Family("layers", "attn", "ff", "final_ln"),  # the restoration model
)
TRIED = 8  # tokens on which a block's sum is tried
ADDS_UP = 1e-3  # largest share of what a block adds that may be missing from it, beyond rounding
# A block of these adds the bare outputs of attention, then of the MLP.
PLAIN = {"gpt2", "llama", "mistral", "qwen2", "qwen3", "restoration"}


class _Reached(Exception):
    """The last activation needed is there; the rest of the forward pass is not run."""


def family(model: nn.Module) -> Family:
    """Raises AtlasError if the model's blocks are not where a known family keeps them."""
    for known in FAMILIES:
        if _has(model, known.blocks):
            return known
    raise AtlasError(f"base_model: {type(model).__name__} keeps its blocks in none of {[f.blocks for f in FAMILIES]}")


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def blocks(model: nn.Module) -> nn.ModuleList:
    return model.get_submodule(family(model).blocks)


def module_name(model: nn.Module, site: str, layer: int) -> str:
    """Module path at which the site of a block is read: the block itself for the residual stream.

    `mlp_in` is what the MLP gets, the norm's output: patched, it changes the MLP's answer and leaves the stream alone.

    Raises AtlasError for a site or layer that does not exist, with the nearest module names.
    """
    count = len(blocks(model))
    if not 0 <= layer < count:
        raise AtlasError(f"activations.layers: no layer {layer}; {type(model).__name__} has layers 0 to {count - 1}")
    kind = family(model)
    block = f"{kind.blocks}.{layer}"
    if site in SITES:
        if site == "resid_mid" and not _sequential(model):
            raise AtlasError(
                f"activations.site: resid_mid is not known for {model.config.model_type}: attention and MLP are "
                "parallel or their outputs are changed before they are added; choose resid_pre or resid_post"
            )
        inside = {"attn_out": kind.attention, "mlp_in": kind.mlp, "mlp_out": kind.mlp}
        path = f"{block}.{inside[site]}" if site in inside else block
        if not _has(model, path):
            raise AtlasError(
                f"activations.site: {site} is not known for {model.config.model_type}, which has no module {path}; choose "
                "resid_pre or resid_post, or give a module path with {layer} in it"
            )
        return path
    path = site.replace("{layer}", str(layer))
    if not _has(model, path):
        paths = [name.replace(f".{layer}.", ".{layer}.", 1) for name in module_paths(model, layer)]
        near = difflib.get_close_matches(site, paths, 3, 0.3) or paths
        raise AtlasError(
            f"activations.site: no module {site!r}; sites are {', '.join(SITES)}, module paths {', '.join(near)}"
        )
    return path


def check_site(model: nn.Module, site: str, layers: list[int]) -> None:
    """Raise AtlasError if a layer has no such site, or if what is read there is not what the site's name promises.

    `attn_out` and `mlp_out` are what a block adds to the stream: on a few tokens, resid_pre + attn_out + mlp_out must be
    resid_post. A norm or a multiplier behind a module, or a residual inside of it, shows as a difference.
    """
    import torch

    kind = family(model)
    if not _has(model, kind.norm):
        raise AtlasError(
            f"base_model: {type(model).__name__} has its blocks at {kind.blocks} and no norm at {kind.norm}"
        )
    for layer in layers:
        module_name(model, site, layer)
    if site not in ("attn_out", "mlp_out", "resid_mid"):
        return
    block = f"{kind.blocks}.{layers[0]}"
    if lacking := [path for path in (kind.attention, kind.mlp) if not _has(model, f"{block}.{path}")]:
        raise AtlasError(
            f"activations.site: {site}: {model.config.model_type} has no module {block}.{lacking[0]}, without which what a "
            "block adds is not known; choose resid_pre or resid_post"
        )
    words = min(model.config.get_text_config().vocab_size, 64)
    tokens = (
        torch.arange(1, TRIED + 1, device=model.device)[None] * 7 % words
    )  # not 0, which may be padding, a row of zeros
    with torch.inference_mode(), ExitStack() as stack:
        parts = ("resid_pre", "attn_out", "mlp_out", "resid_post")
        read = {part: stack.enter_context(capture(model, part, layers, stop=False)) for part in parts}
        model(tokens, use_cache=False)
    for layer in layers:
        pre, attention, mlp, post = (read[part][layer][0].to(torch.float64) for part in parts)
        missing, added = (each.norm(dim=-1) for each in (pre + attention + mlp - post, post - pre))
        rounding = 4 * torch.finfo(model.dtype).eps * post.norm(dim=-1)
        if not ((missing - rounding) / added).nanmedian() < ADDS_UP:
            missing = (missing / added).nanmedian().item()
            raise AtlasError(
                f"activations.site: {site}: the outputs of attention and MLP of layer {layer} miss what the block adds by "
                f"{missing:.0%} ({model.config.model_type}); choose resid_pre or resid_post"
            )


def module_paths(model: nn.Module, layer: int) -> list[str]:
    """Paths of the modules inside one block."""
    block = f"{family(model).blocks}.{layer}"
    return [name for name, _ in model.named_modules() if name.startswith(f"{block}.")]


@contextmanager
def capture(model: nn.Module, site: str, layers: list[int], stop: bool = True) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that one forward pass inside the `with` fills: layer -> [batch, context, d].

    Unless `stop` is False, the pass ends after the last layer needed, and with it the `with` block.
    """
    found: dict[int, Tensor] = {}

    def keep(layer: int, activation: Tensor) -> None:
        found[layer] = activation.detach().clone()  # some blocks change it in place later
        if stop and len(found) == len(layers):
            raise _Reached

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_at(model, site, layer, lambda activation, layer=layer: keep(layer, activation)))
        with suppress(_Reached):
            yield found


@contextmanager
def patch(model: nn.Module, site: str, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the `with`, the site's activation [batch, context, d] is replaced by `change(activation)`."""
    with _at(model, site, layer, change):
        yield


@contextmanager
def start_at(model: nn.Module, layer: int, residual: Tensor) -> Iterator[None]:
    """Inside the `with`, the blocks before `layer` are skipped and block `layer` reads `residual` [batch, context, d].

    `layer` may be the number of blocks: then only the final norm and the unembedding are run. The blocks stay where
    they are (some models choose masks by block index); only their forward is replaced.
    """
    all_blocks = blocks(model)
    skipped = [(block, vars(block).get("forward")) for block in all_blocks[:layer]]  # accelerate puts its own there
    reader = all_blocks[layer] if layer < len(all_blocks) else model.get_submodule(family(model).norm)
    handle = reader.register_forward_pre_hook(lambda _, arguments: (residual, *arguments[1:]))
    for block, _ in skipped:
        block.forward = lambda *_, **__: residual
    try:
        yield
    finally:
        handle.remove()
        for block, own in skipped:
            del block.forward
            if own is not None:
                block.forward = own


@contextmanager
def _at(model: nn.Module, site: str, layer: int, see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Hook a site: `see` gets the activation; what it returns, if anything, takes its place, on the same device."""

    def visit(activation: Tensor) -> Tensor | None:
        changed = see(activation)
        return None if changed is None else changed.to(activation.device)

    module = model.get_submodule(module_name(model, site, layer))
    if site in INPUTS:
        handles = [module.register_forward_pre_hook(lambda _, arguments: _first(visit(arguments[0]), arguments))]
    elif site == "resid_mid":
        handles = _hook_middle(model, module, visit)
    else:
        handles = [module.register_forward_hook(lambda _, __, output: _replaced(visit, output))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(changed: Tensor | None, arguments: tuple) -> tuple | None:
    return None if changed is None else (changed, *arguments[1:])


def _replaced(visit: Callable, output):
    if isinstance(output, tuple):
        return _first(visit(output[0]), output)
    return visit(output)


def _hook_middle(model: nn.Module, block: nn.Module, visit: Callable) -> list:
    """The stream after attention is block input + attention output; a change is made through the attention output,

    because the block keeps its own copy of the stream beside the norm's input.
    """
    before: list[Tensor] = []

    def remember(_, arguments) -> None:
        before[:] = [arguments[0]]

    def middle(attention: Tensor) -> Tensor | None:
        entering = before[0].to(attention.device)
        changed = visit(entering + attention)
        return None if changed is None else changed - entering

    attention = block.get_submodule(family(model).attention)
    return [
        block.register_forward_pre_hook(remember),
        attention.register_forward_hook(lambda _, __, output: _replaced(middle, output)),
    ]


def _sequential(model: nn.Module) -> bool:
    """Whether a block's stream is input + attention, then + MLP, and nothing else."""
    if model.config.model_type == "gpt_neox":
        return not model.config.use_parallel_residual
    return model.config.model_type in PLAIN
