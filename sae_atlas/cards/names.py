"""Names of what is published: an SAE's folder, a recipe's release."""

import re

from sae_atlas.sizes import format_size

SPELLED = {"resid_post": "resid", "resid_pre": "residpre", "resid_mid": "residmid", "attn_out": "attn", "mlp_out": "mlp"}


def sae_name(base: str, site: str, layer: int, expansion: int, tokens: int, recipe: str) -> str:
    """`<base>_<site><layer>_exp<expansion>_<tokens>_<recipe>`: gpt2-small_mlp0_exp2_1M_topk-32.

    The recipe tells sister runs apart. A module path as site is spelled by its last part.
    """
    spelled = SPELLED.get(site) or re.sub(r"[^A-Za-z]", "", site.split(".")[-1])
    return f"{base}_{spelled}{layer}_exp{expansion}_{format_size(tokens)}_{recipe}"


def release_name(base: str, expansion: int, recipe: str) -> str:
    """`<base>-saes-x<expansion>-<recipe>`: pythia-410m-saes-x32-l1-3e-4-fixed."""
    return f"{base}-saes-x{expansion}-{recipe}"
