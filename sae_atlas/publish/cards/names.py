"""Names of what is published: an SAE's folder, a recipe's release."""

import re
from dataclasses import dataclass

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.sizes import format_size, parse_size

SPELLED = {
    "resid_post": "resid",
    "resid_pre": "residpre",
    "resid_mid": "residmid",
    "attn_out": "attn",
    "mlp_in": "mlpin",
    "mlp_out": "mlp",
}
SITES = {spelled: site for site, spelled in SPELLED.items()}
PUBLISHED = ("model.pt", "config.json", "model_card.md", "cfg.json", "sae_weights.safetensors")  # of an SAE's folder
PATTERN = re.compile(
    r"(?P<base>.+?)_(?P<site>[A-Za-z]+)(?P<layer>\d+)_exp(?P<expansion>\d+)_(?P<tokens>\d+[kMB]?)(?:_(?P<recipe>.+))?"
)


@dataclass(frozen=True)
class SaeName:
    """The parts of an SAE's name. `site` is one of ours or the end of a module path; `recipe` may be absent."""

    base: str
    site: str
    layer: int
    expansion: int
    tokens: int
    recipe: str | None


def sae_name(base: str, site: str, layer: int, expansion: int, tokens: int, recipe: str) -> str:
    """`<base>_<site><layer>_exp<expansion>_<tokens>_<recipe>`: gpt2-small_mlp0_exp2_1M_topk-32.

    The recipe tells sister runs apart. A module path as site is spelled by its last part.
    """
    return f"{base}_{spelled_site(site)}{layer}_exp{expansion}_{format_size(tokens)}_{recipe}"


def spelled_site(site: str) -> str:
    """`resid`, `mlp`, ...; of a module path the letters of its last part that is not the layer."""
    parts = [re.sub(r"[^A-Za-z]", "", part) for part in site.split(".") if part != "{layer}"]
    return SPELLED.get(site) or next(filter(None, reversed(parts)), "module")


def parse_sae_name(name: str) -> SaeName:
    """The parts of a name that sae_name made. Raises AtlasError if it is none."""
    match = PATTERN.fullmatch(name)
    if not match:
        raise AtlasError(
            f"{name}: no name of an SAE; it reads <base>_<site><layer>_exp<expansion>_<tokens>_<recipe>, "
            "for example gpt2-small_mlp0_exp2_1M_topk-32"
        )
    site, recipe = match["site"], match["recipe"]
    layer, expansion, tokens = int(match["layer"]), int(match["expansion"]), parse_size(match["tokens"])
    return SaeName(match["base"], SITES.get(site, site), layer, expansion, tokens, recipe)


def release_name(base: str, expansion: int, recipe: str) -> str:
    """`<base>-saes-x<expansion>-<recipe>`: pythia-410m-saes-x32-l1-3e-4-fixed."""
    return f"{base}-saes-x{expansion}-{recipe}"


def checkpoint_name(layer: int, snapshot: str) -> str:
    """File of a layer and snapshot in a release."""
    return f"sae_layer{layer:02d}_{snapshot}.pt"
