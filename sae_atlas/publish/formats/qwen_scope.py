"""Qwen-Scope: a file layer{N}.sae.pt {W_enc [d_sae, d_in], b_enc, W_dec [d_in, d_sae], b_dec} per layer; TopK.

`config.json` beside them is about all: {model_type, base_model, d_model, d_sae, k, hook_point, ...}.
"""

import re
from pathlib import Path

from sae_atlas.config.layouts import LAYOUTS
from sae_atlas.config.published import BESIDE
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import active, check_stated, checkpoint, read_config, require, weights
from sae_atlas.saes.checkpoint import load_tensors

FILE = re.compile(r"layer(\d+)\.sae\.pt")


def read(path: str | Path, k: int | None = None) -> dict:
    """The checkpoint. Its encoder reads x itself. k: active latents, where no config.json says it; what is done with the
    tensors follows from `model_type`, other keys are about the base model.

    Raises AtlasError where nothing says k, or both do and differ.
    """
    path = Path(path)
    about = path.parent / BESIDE["qwen_scope"]
    config = read_config(about) if about.is_file() else {}
    require(about, config, "model_type", ("topk_sae",))
    tensors = weights(path, load_tensors(path, "Fetch it again."), LAYOUTS["qwen_scope"])
    check_stated(about, {key: config.get(key) for key in ("d_sae", "d_model")}, tensors["W_enc"].shape)
    if "k" not in config and k is None:
        raise AtlasError(
            f"{path}: does not say how many latents are active; fetch {about.name} of the release beside it, or give k"
        )
    if k not in (None, config.get("k", k)):
        raise AtlasError(
            f"{about}: k is {config['k']}, not the {k} that were asked for; correct which of them is wrong"
        )
    said = config if "k" in config else {"k": k}
    match = FILE.fullmatch(path.name)
    return checkpoint(
        **tensors,
        architecture="topk",
        k=active(about, said, "k", len(tensors["W_enc"])),
        centred=False,
        activations={
            "base_model": {"source": config.get("base_model")},
            "site": config.get("hook_point"),
            "layer": int(match[1]) if match else None,
        },
        stated=config,
    )
