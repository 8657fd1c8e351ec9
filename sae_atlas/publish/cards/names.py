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
PATTERNS = [
    re.compile(
        rf"(?P<base>.+?)_(?P<site>[A-Za-z]+)(?:-(?P<target>[A-Za-z]+))?(?P<layer>\d+)_{width}_(?P<tokens>\d+[kMB]?)(?:_(?P<recipe>.+))?"
    )
    for width in (r"exp(?P<expansion>\d+)", r"(?P<d_sae>\d+)")
]


@dataclass(frozen=True)
class SaeName:
    """The parts of an SAE's name. `site` is one of ours or the end of a module path; `recipe` may be absent, and `target` is
    unless it is a transcoder.

    `d_sae` stands in place of `expansion` where it is no whole multiple of the input dimensions.
    """

    base: str
    site: str
    layer: int
    expansion: int | None
    tokens: int
    recipe: str | None
    d_sae: int | None = None
    target: str | None = None


def sae_name(
    base: str,
    site: str,
    layer: int,
    expansion: int | None,
    tokens: int,
    recipe: str,
    d_sae: int | None = None,
    target: str | None = None,
) -> str:
    """`<base>_<site><layer>_exp<expansion>_<tokens>_<recipe>`: gpt2-small_mlp0_exp2_1M_topk-32; `_<d_sae>_` where it is given.

    With a transcoder's target gpt2-small_mlpin-mlp0_exp2_1M_topk-32. The recipe tells sister runs apart. A module path as site
    is spelled by its last part.
    """
    width = f"exp{expansion}" if d_sae is None else d_sae
    site = "-".join(spelled_site(each) for each in (site, target) if each is not None)
    return f"{base}_{site}{layer}_{width}_{format_size(tokens)}_{recipe}"


def width(recipe: dict) -> dict[str, int]:
    """What a name says of a recipe's width: `expansion` or `d_sae`."""
    key = "d_sae" if "d_sae" in recipe else "expansion"
    return {key: recipe[key]}


def spelled_site(site: str) -> str:
    """`resid`, `mlp`, ...; of a module path the letters of its last part that is not the layer."""
    parts = [re.sub(r"[^A-Za-z]", "", part) for part in site.split(".") if part != "{layer}"]
    return SPELLED.get(site) or next(filter(None, reversed(parts)), "module")


def parse_sae_name(name: str) -> SaeName:
    """The parts of a name that sae_name made. Raises AtlasError if it is none."""
    match = next(filter(None, (pattern.fullmatch(name) for pattern in PATTERNS)), None)
    if not match:
        raise AtlasError(
            f"{name}: no name of an SAE; it reads <base>_<site><layer>_exp<expansion>_<tokens>_<recipe>, "
            "for example gpt2-small_mlp0_exp2_1M_topk-32"
        )
    parts = {"expansion": None, "d_sae": None} | match.groupdict()
    numbers = {key: parts[key] and int(parts[key]) for key in ("layer", "expansion", "d_sae")}
    sites = {key: SITES.get(parts[key], parts[key]) for key in ("site", "target")}
    return SaeName(**parts | numbers | sites | {"tokens": parse_size(parts["tokens"])})


def release_name(base: str, expansion: int, recipe: str, kind: str = "saes") -> str:
    """`<base>-<kind>-x<expansion>-<recipe>`: pythia-410m-saes-x32-l1-3e-4-fixed. kind: saes or transcoders."""
    return f"{base}-{kind}-x{expansion}-{recipe}"


def checkpoint_name(layer: int, snapshot: str) -> str:
    """File of a layer and snapshot in a release."""
    return f"sae_layer{layer:02d}_{snapshot}.pt"
