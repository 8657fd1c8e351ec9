"""Gemma Scope 2: a folder with config.json and params.safetensors {w_enc [d_in, d_sae], b_enc, w_dec [d_sae, d_out], b_dec,
threshold}; JumpReLU. SAEs, and transcoders, which may have affine_skip_connection [d_in, d_out]: y_hat = ... + x @ it.
"""

import re
from pathlib import Path

from sae_atlas.config.layouts import LAYOUTS, Layout, of_transcoder
from sae_atlas.config.published import PAIRS
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import (
    check_stated,
    checkpoint,
    read_config,
    read_safetensors,
    refuse_unknown,
    require,
    site_and_layer,
    weights,
    with_target,
)
from sae_atlas.publish.formats.hooks import hook_name
from sae_atlas.sites import HEADS

FILES = PAIRS["gemma_scope_2"]
SKIP: Layout = {"W_skip": ("affine_skip_connection", ("d_in", "d_out"))}
KEYS = ("type", "architecture", "hf_hook_point_in", "hf_hook_point_out", "affine_connection", "width")
HARMLESS = ("model_name", "l0")
ACROSS_LAYERS = ("clt", "crosscoder")
HOOK = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")
SITES = {  # what is read, as config.json has it behind the layer -> our site
    "output": "resid_post",
    "self_attn.o_proj.input": HEADS,
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
}


def read(folder: str | Path, is_transcoder: bool) -> dict:
    """The checkpoint. is_transcoder: counts where config.json, without which some were published, is not there.

    Raises AtlasError for what reads or writes several layers.
    """
    folder = Path(folder)
    path, file = folder / FILES[0], folder / FILES[1]
    config = read_config(path) if path.is_file() else {}
    if config.get("type") in ACROSS_LAYERS:
        raise AtlasError(
            f"{path}: type {config['type']!r} reads or writes several layers at once; take an SAE or transcoder of one layer"
        )
    kind = require(path, config, "type", ("transcoder" if is_transcoder else "sae", "sae", "transcoder"))
    is_transcoder = kind == "transcoder"
    require(path, config, "architecture", ("jump_relu",))
    affine = require(path, config, "affine_connection", (None, True, False) if is_transcoder else (None, False))
    refuse_unknown(path, config, (*KEYS, *HARMLESS))
    tensors = read_safetensors(file)
    layout, later = LAYOUTS["gemma_scope_2"], {}
    if is_transcoder:
        layout = of_transcoder(layout)
        layout, later = ({**layout, **SKIP}, {}) if affine else (layout, SKIP if affine is None else {})
    tensors = weights(file, tensors, layout, later)
    check_stated(path, {"width": config.get("width")}, [len(tensors["W_enc"])])
    activations = _site_and_layer(path, config, "hf_hook_point_in")
    if is_transcoder:
        target = _site_and_layer(path, config, "hf_hook_point_out")
        activations = with_target(path, "hf_hook_point_out", _hook(target), activations)
    elif config.get("hf_hook_point_out", config.get("hf_hook_point_in")) != config.get("hf_hook_point_in"):
        raise AtlasError(
            f"{path}: is an SAE, but hf_hook_point_out is not what it reads; correct which of them is wrong"
        )
    return checkpoint(
        **tensors,
        architecture="jumprelu",
        centred=False,
        is_transcoder=is_transcoder,
        activations=activations | {"base_model": {"source": _base_model(config.get("model_name"))}},
        stated=config,
    )


def _base_model(name: object) -> str | None:
    """The hub's name; the files say `gemma-v3-...`, and `-pt` of the one that has none on the hub."""
    if not isinstance(name, str):
        return None
    name = name.replace("-v3", "-3")
    return name.removesuffix("-pt") if "270m" in name else name


def _site_and_layer(path: Path, config: dict, key: str) -> dict:
    """Site and layer of a hook point; one that is not known here is the site as it stands."""
    name = config.get(key)
    match = HOOK.fullmatch(name) if isinstance(name, str) else None
    if match is None or match[2] not in SITES:
        return site_and_layer(path, key, name)
    return {"site": SITES[match[2]], "layer": int(match[1])}


def _hook(where: dict) -> str | None:
    return where["site"] if where["layer"] is None else hook_name(where["site"], where["layer"])
