"""Names of a site in other libraries: the hook of TransformerLens and the module path in transformers; and back."""

import re

from sae_atlas.own_arrays.files import SITE
from sae_atlas.sites import MODULE_INPUT, SITES

# TransformerLens' own `hook_mlp_in` is the stream before the norm, and its norms' hooks lack their weights: the site mlp_in
# has no hook there, so it gets a name that TransformerLens refuses; so do activations that were saved elsewhere.
NO_HOOK = ("mlp_in", SITE)
HOOKS = tuple(site for site in SITES if site not in NO_HOOK)
HOOK = re.compile(rf"blocks\.(\d+)\.(?:hook_({'|'.join(HOOKS)})|({'|'.join(NO_HOOK)}))")
PARTS = {"mlp": "mlp_out", "attn": "attn_out", "attention": "attn_out", "self_attn": "attn_out"}
# What all heads of a layer give, side by side: the input of attention's output projection, which these names have.
HEADS = "blocks.{layer}.attn.hook_z"
ATTENTION = "|".join([*(part for part, site in PARTS.items() if site == "attn_out"), "self_attention"])
INTO_PROJECTION = re.compile(rf"{MODULE_INPUT}.*\.({ATTENTION})\.(o_proj|out_proj|c_proj|dense|wo)")
READ_BY = {"mlp_out": "mlp_in", "resid_post": "resid_pre"}  # site of a module's output -> that of its input


def module_path(sites: dict | None, site: str, layer: int) -> str | None:
    """Path of the module of the model itself whose output is the site's value.

    sites: as measured, from the model's provenance; None in those from before it was. None where no module's output is it.
    """
    if site not in SITES:
        return None if site.startswith(MODULE_INPUT) else site.replace("{layer}", str(layer))
    if sites is None:
        return None
    if site == "resid_pre":
        site, layer = "resid_post", layer - 1
    return sites["layers"][layer]["gives"].get(site) if layer >= 0 else None


def hook_name(site: str, layer: int) -> str:
    """TransformerLens' name: `blocks.3.hook_resid_post`; a module path stays one, as SAELens takes both."""
    if site in NO_HOOK:
        return f"blocks.{layer}.{site}"
    return f"blocks.{layer}.hook_{site}" if site in SITES else site.replace("{layer}", str(layer))


def parse_hook(name: str) -> tuple[str, int] | None:
    """(site, layer) of a TransformerLens hook or a module path (`gpt_neox.layers.3.mlp`), before which `in:` may stand for what
    goes into the module; None where it is neither.
    """
    match = HOOK.fullmatch(name)
    if match:
        return match[2] or match[3], int(match[1])
    parts = name.split(".")
    number = next((number for number, part in enumerate(parts) if part.isdigit()), None)
    if not number:
        return None
    inside = parts[number + 1 :]
    is_output = not name.startswith(MODULE_INPUT)
    if is_output and (not inside or (inside[0] in PARTS and len(inside) == 1)):
        return (PARTS[inside[0]] if inside else "resid_post"), int(parts[number])
    return ".".join([*parts[:number], "{layer}", *inside]), int(parts[number])


def input_of(hook: str) -> str:
    """The hook of what goes into the module whose output is named by `hook`, a module path with a layer in it."""
    site, layer = parse_hook(hook)
    return hook_name(READ_BY[site], layer) if site in READ_BY else f"{MODULE_INPUT}{hook}"


def is_same_site(theirs: str, ours: str) -> bool:
    """Whether a site that a file states is the config's: the same, or both are the values of all attention heads."""
    return theirs == ours or (theirs == HEADS and INTO_PROJECTION.fullmatch(ours) is not None)
