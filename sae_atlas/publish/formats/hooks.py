"""Names of a site in other libraries: the hook of TransformerLens and the module path in transformers; and back."""

import re

from sae_atlas.sites import FAMILIES, SITES

# Of transformers' model types; others are named as Llama is.
BY_TYPE = {"gpt_neox": FAMILIES[1], "gpt2": FAMILIES[2], "restoration": FAMILIES[3]}
NORMS = {
    "gpt2": "ln_2",
    "restoration": "ln2",
    **dict.fromkeys(("gpt_neox", "llama", "mistral", "qwen2", "qwen3"), "post_attention_layernorm"),
}
# TransformerLens' own `hook_mlp_in` is the stream before the norm, and what its norms show lacks their weights: our
# mlp_in has no hook there, so it gets a name at which theirs fails.
NO_HOOK = "mlp_in"
HOOKS = tuple(site for site in SITES if site != NO_HOOK)
HOOK = re.compile(rf"blocks\.(\d+)\.(?:hook_({'|'.join(HOOKS)})|({NO_HOOK}))")
PARTS = {"mlp": "mlp_out", "attn": "attn_out", "attention": "attn_out", "self_attn": "attn_out"}


def module_path(model_type: str, site: str, layer: int) -> str | None:
    """Path of the module whose output the site is, or whose input it is for `resid_pre` and `resid_mid`.

    None for `mlp_in` of a model whose norms are not known.
    """
    if site not in SITES:
        return site.replace("{layer}", str(layer))
    family = BY_TYPE.get(model_type, FAMILIES[0])
    block = f"{family.blocks}.{layer}"
    if site == "mlp_in":
        return f"{block}.{NORMS[model_type]}" if model_type in NORMS else None
    return {"attn_out": f"{block}.{family.attention}", "mlp_out": f"{block}.{family.mlp}"}.get(site, block)


def hook_name(site: str, layer: int) -> str:
    """TransformerLens' name: `blocks.3.hook_resid_post`; a module path stays one, as SAELens takes both."""
    if site == NO_HOOK:
        return f"blocks.{layer}.{site}"
    return f"blocks.{layer}.hook_{site}" if site in SITES else site.replace("{layer}", str(layer))


def parse_hook(name: str) -> tuple[str, int] | None:
    """(site, layer) of a TransformerLens hook or a module path (`gpt_neox.layers.3.mlp`); None where it is neither."""
    match = HOOK.fullmatch(name)
    if match:
        return match[2] or match[3], int(match[1])
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if not place:
        return None
    inside = parts[place + 1 :]
    if not inside or (inside[0] in PARTS and len(inside) == 1):
        return (PARTS[inside[0]] if inside else "resid_post"), int(parts[place])
    return ".".join([*parts[:place], "{layer}", *inside]), int(parts[place])
