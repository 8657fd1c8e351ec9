"""One transcoder of a folder in circuit-tracer's format (circuit_tracer.py, which writes it): layer_{i}.safetensors.

`config.yaml` beside them says for all what they read and predict, and the base model.
"""

import re
from pathlib import Path

from sae_atlas.config.layouts import LAYOUTS, Layout
from sae_atlas.config.limits import read_plain
from sae_atlas.config.published import BESIDE
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import checkpoint, read_safetensors, site_and_layer, weights, with_target

FILE = re.compile(r"layer_(\d+)\.safetensors")
THRESHOLD: Layout = {"threshold": ("activation_function.threshold", ("d_sae",))}  # where it is no ReLU
SKIP: Layout = {"W_skip": ("W_skip", ("d_out", "d_in"))}
SITES = {"mlp.hook_in": "mlp_in"}  # circuit-tracer's own name; the others are TransformerLens'


def read(path: str | Path) -> dict:
    """The checkpoint. Its site and target are not known where config.yaml is not there.

    Raises AtlasError for a folder of cross-layer transcoders.
    """
    path = Path(path)
    about = path.parent / BESIDE["circuit_tracer"]
    config = read_plain(about) if about.is_file() else {}
    if not isinstance(config, dict):
        raise AtlasError(f"{about}: holds no keys; fetch it again")
    if config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise AtlasError(
            f"{about}: model_kind {config['model_kind']!r} writes several layers; only transcoders of one are read"
        )
    tensors = weights(path, read_safetensors(path), LAYOUTS["circuit_tracer"], later={**THRESHOLD, **SKIP})
    match = FILE.fullmatch(path.name)
    layer = int(match[1]) if match else None
    read_at, predicted = (_hook(config.get(f"feature_{side}_hook"), layer) for side in ("input", "output"))
    activations = site_and_layer(about, "feature_input_hook", read_at, layer)
    return checkpoint(
        **tensors,
        architecture="jumprelu" if "threshold" in tensors else "relu",
        is_transcoder=True,
        activations={
            **with_target(about, "feature_output_hook", predicted, activations),
            "base_model": {"source": config.get("model_name")},
        },
        stated=config,
    )


def _hook(name: object, layer: int | None) -> str | None:
    if not isinstance(name, str) or layer is None:
        return None
    return f"blocks.{layer}.{SITES.get(name, name)}"
