"""Names of a site in other libraries: the hook of TransformerLens and the module path in transformers; and back."""

import re

from sae_atlas.own_arrays.files import SITE
from sae_atlas.sites import HEADS, MODULE_INPUT, SITES, own_path

# TransformerLens' own `hook_mlp_in` is the stream before the norm, and its norms' hooks lack their weights: the site mlp_in
# has no hook there, so it gets a name that TransformerLens refuses; so do activations that were saved elsewhere.
NO_HOOK = ("mlp_in", SITE)
HOOKS = tuple(site for site in SITES if site not in NO_HOOK)
HOOK = re.compile(rf"blocks\.(\d+)\.(?:hook_({'|'.join(HOOKS)})|({'|'.join(NO_HOOK)}))")
# Names of attention and of its output projection, whose input is what HEADS names.
INTO_PROJECTION = re.compile(
    rf"{MODULE_INPUT}.*\.(attn|attention|self_attn|self_attention)\.(o_proj|out_proj|c_proj|dense|wo)"
)


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

    A module path stays one but for a block's own, whose output is the stream in every model: whether what another module gives
    is what the block adds differs from model to model (measured_site).
    """
    match = HOOK.fullmatch(name)
    if match:
        return match[2] or match[3], int(match[1])
    parts = name.split(".")
    number = next((number for number, part in enumerate(parts) if part.isdigit()), None)
    if not number:
        return None
    inside = parts[number + 1 :]
    if not inside and not name.startswith(MODULE_INPUT):
        return "resid_post", int(parts[number])
    return ".".join([*parts[:number], "{layer}", *inside]), int(parts[number])


def input_of(hook: str) -> str:
    """The hook of what goes into the module whose output is named by `hook`, a module path with a layer in it."""
    site, layer = parse_hook(hook)
    return hook_name("resid_pre", layer) if site == "resid_post" else f"{MODULE_INPUT}{hook}"


def measured_site(site: str, layer: int, sites: dict | None) -> str:
    """The named site that a module path is in a model; else the path as the model has it. A named site stays one.

    sites: as measured, from the model's provenance; without it a path stands for itself.
    """
    if sites is None or "{layer}" not in site:
        return site
    path, of_layer = own_path(site, sites["blocks"]), sites["layers"][layer]
    holders = of_layer["sites"] if path.startswith(MODULE_INPUT) else of_layer["gives"]
    where = path.replace("{layer}", str(layer))
    return next((name for name, holder in holders.items() if holder == where), path)


def is_same_site(theirs: str, ours: str, layer: int, sites: dict | None) -> bool:
    """Whether a site that a file states is the config's: the same in the model, or both are the values of all attention heads.

    sites: as for measured_site.
    """
    if measured_site(theirs, layer, sites) == measured_site(ours, layer, sites):
        return True
    return theirs == HEADS and INTO_PROJECTION.fullmatch(ours) is not None
