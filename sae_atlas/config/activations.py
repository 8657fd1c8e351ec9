"""The section `activations`, and where it contradicts itself or the model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sae_atlas.config.base_model import Model
from sae_atlas.config.keys import Layers, Number, Section, Whole, Words, key
from sae_atlas.config.layers import layer_words, layers_there, named_layers
from sae_atlas.io.errors import AtlasError, nearest
from sae_atlas.sites import SITES

ELSEWHERE = ("hub", "restoration")  # where counting layers takes a download, or torch to read a file
Site = Annotated[
    str,
    Field(strict=True, pattern=r"^(in:)?[A-Za-z0-9_{}]{1,40}([.][A-Za-z0-9_{}]{1,40}){0,20}$"),
    Words("the name of a site, or a module path with `{layer}` in it, `in:` before it for what goes into the module"),
]


class Activations(Section):
    """What is read from the model and how it is stored."""

    site: Site = key(
        "where in a block activations are read: `resid_pre`, `resid_mid` (the stream itself, between attention and MLP), "
        "`resid_post`, `attn_out`, `mlp_in` (the norm's output, which the MLP reads), `mlp_out`, or a module path with "
        "`{layer}` in it. `sae-atlas sites` lists them",
        "resid_post",
    )
    target: Site = key(
        "site of the same layer that transcoders predict from `site`, such as `mlp_out` from `mlp_in`",
        otherwise="SAEs, which rebuild `site` itself",
    )
    layers: Layers = key("layers that SAEs are trained on", "all")
    dtype: Literal["float16", "float32", "int8"] = key(
        "precision of the stores. `int8` has a scale per dimension; what does not fit is an error (see below). The forward "
        "pass saves float32 for `float32` and float16 for the others",
        "float16",
    )
    compression: Literal["none", "zstd"] = key(
        "compression of the stores. `zstd` leaves 0.91 of the bytes of float16 and 0.84 of int8, and reading is 2.1 to "
        "2.6 times slower",
        "none",
    )
    outlier_norm: Number = key(
        "tokens with a norm above this many medians are left out of training. They are counted. The median is that of the "
        "norms above 0: rows of zeros make no outliers of the others",
        10,
        gt=1,
    )
    shard_rows: Whole = key("rows shuffled together in memory: a multiple of `chunk_rows`", 65_536, ge=1)
    chunk_rows: Whole = key("rows per checksummed chunk", 4096, ge=1)
    layers_per_pass: Whole = key(
        "layers saved by one forward pass. Fewer need less disk and more passes", otherwise="all", ge=1
    )
    max_live_stores: Whole = key(
        "stores that may exist on disk at once: at least `layers_per_pass`. With two passes' worth saving and training "
        "overlap",
        otherwise="two passes' worth",
        ge=1,
    )
    contexts_per_batch: Whole = key("contexts in one forward pass, which bounds memory", 16, ge=1)
    seed: Whole = key("seed of the order of rows within a shard", 0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _without_bitround(cls, values: object) -> object:
        if isinstance(values, dict) and (values.get("dtype") == "bitround" or "keep_bits" in values):
            raise ValueError(
                "dtype `bitround` and keep_bits are no more; write dtype int8, as small and read three times faster"
            )
        return values


def problems(activations: Activations, base_model: Model):
    layers, model = activations.layers, base_model.plain()
    for key_, site in (("site", activations.site), ("target", activations.target)):
        if site is not None and site not in SITES and "{layer}" not in site:
            yield f"activations.{key_}: no site {site!r}; {nearest(site, SITES)} (or a module path with {{layer}} in it)"
    if activations.target == activations.site:
        yield f"activations.target: {activations.target} is the site itself, which an SAE rebuilds; remove it"
    if activations.shard_rows % activations.chunk_rows:
        yield (
            f"activations.shard_rows: {activations.shard_rows} is not a multiple of chunk_rows ({activations.chunk_rows}); "
            "make it one"
        )
    there = None
    try:
        if layers == "all" or base_model.source not in ELSEWHERE:
            there = layers_there(model)
    except AtlasError as error:
        if layers == "all" or base_model.source == "activations":
            yield str(error)
            return
    chosen = named_layers(layers, model)
    beyond = [layer for layer in chosen if there is not None and layer not in there]
    if beyond:
        yield f"activations.layers: no layer {beyond[0]}; {base_model.name} has layers {layer_words(there)}"
    if not chosen:
        yield f"activations.layers: {layers!r} names no layer; write it from small to large"
    per_pass = min(activations.layers_per_pass or len(chosen), len(chosen))
    if (activations.max_live_stores or per_pass) < per_pass:
        yield f"activations.max_live_stores: one pass alone makes {per_pass} stores; raise it or lower layers_per_pass"


def completed(activations: dict, base_model: dict) -> dict:
    """The plain section with its layers as a list and the sizes that depend on how many there are.

    Raises AtlasError if the number of layers is not known (hub not reachable and `layers: all`).
    """
    layers = named_layers(activations["layers"], base_model)
    per_pass = min(activations.get("layers_per_pass", len(layers)), len(layers))
    return {"max_live_stores": 2 * per_pass, **activations, "layers": layers, "layers_per_pass": per_pass}
