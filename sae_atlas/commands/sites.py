"""What can be read from a model, to choose site and layer: named sites, module paths with their widths, and norms,
outliers and effective dimension of saved activations.
"""

import re
from pathlib import Path

import numpy as np
import torch
import zarr
from torch._subclasses.fake_tensor import FakeTensorMode

from sae_atlas.activations.outliers import median_norm
from sae_atlas.base_models.packages import MODELS
from sae_atlas.config.layers import transformers_config
from sae_atlas.config.read import read_config
from sae_atlas.io.arrays import Rows
from sae_atlas.io.errors import AtlasError
from sae_atlas.metrics.importance import participation_ratio
from sae_atlas.plan.site_check import Unmeasured, random_layers
from sae_atlas.sites import SITES
from sae_atlas.sites.measure import measure
from sae_atlas.sites.points import Sites
from sae_atlas.sites.trace import forward_pass

CONTEXT = 8  # tokens of the pass that finds widths; any number does
OUTLIER = 10  # medians above which a token's norm is an outlier, the default of activations.outlier_norm


def list_sites(model: str, directory: str | Path = ".") -> str:
    """Sites and module paths of a config file's model, a folder in transformers format, an embedded model or a hub id.

    Under it, for a config file, the layers whose activations its run in `directory` saved. No weights are read. Raises
    AtlasError if the model's config cannot be had.
    """
    configured = model.endswith((".yaml", ".yml"))
    config = transformers_config(read_config(model)["base_model"] if configured else _section(model))
    text = config.get_text_config(decoder=True)
    try:
        few = random_layers(config, list(range(text.num_hidden_layers)))
    except Unmeasured as error:
        raise AtlasError(
            f"base_model: no few random layers of a {config.model_type} can be made ({error}); its sites are not known"
        ) from error
    sites = measure(few)
    count, width = text.num_hidden_layers, text.hidden_size
    lines = [
        f"{type(few).__name__}: layers 0 to {count - 1}, d_model {width}",
        "",
        "sites, as measured on random layers",
    ]
    for site in SITES:
        lines += [f"  {site:<12} {_where(site, sites, width)}"]
    lines += [
        "",
        "module paths, with the width of their output (activations.site takes them as they stand; `in:` before one is what",
        "goes into the module)",
    ]
    for path, size in widths(config, sites).items():
        lines.append(f"  {size:>6}  {path}")
    return "\n".join([*lines, *(_saved(Path(directory) / "results" / "held_out.zarr") if configured else [])])


def widths(config, sites: Sites) -> dict[str, int]:
    """Module path in the first block -> last dimension of its output, in the order they are run, at the model's own width.

    Modules whose output is not [batch, context, d] are left out: they are no sites.
    """
    from transformers import AutoModelForCausalLM

    width_of_path: dict[str, int] = {}

    def keep(path: str, output) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(output, torch.Tensor) and output.ndim == 3 and output.shape[:2] == (1, CONTEXT):
            width_of_path[path] = output.shape[-1]

    with FakeTensorMode():  # shapes without numbers, through whatever the model does
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()
        block = model.get_submodule(f"{sites.path}.0")
        for name, module in block.named_modules():
            if name:
                path = f"{sites.path}.{{layer}}.{name}"
                module.register_forward_hook(lambda _, __, output, path=path: keep(path, output))
        with torch.inference_mode():
            forward_pass(model, torch.zeros(1, CONTEXT, dtype=torch.long))
    return width_of_path


def _where(site: str, sites: Sites, width: int) -> str:
    """The site's width and module, or why there is none; where layers differ, in how many it is."""
    have = [block for block in sites.blocks if site in block.points]
    if not have:
        return f"none: {sites.blocks[0].lacks[site]}"
    path = str(have[0].points[site]).replace(have[0].module, f"{sites.path}.{{layer}}")
    kinds = "" if len(have) == len(sites.blocks) else f"  (in {len(have)} of {len(sites.blocks)} kinds of layers)"
    return f"{width:>6}  {path}{kinds}"


def geometry(x: np.ndarray) -> dict[str, float]:
    """Norms and effective dimension of activations [tokens, d_in].

    median_norm, of the norms above 0, in the activations' unit; largest, the largest norm over it; outliers, the share of
    tokens above OUTLIER medians (0 to 1); dimension, the effective dimension of the others: (sum of the covariance's
    eigenvalues)^2 / sum of their squares, 1 to d_in.
    """
    x = x.astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    median = float(median_norm(norms))
    typical = x[norms <= OUTLIER * median]
    covariance = np.cov(typical, rowvar=False, bias=True).reshape(x.shape[1], x.shape[1])
    return {
        "median_norm": median,
        "largest": float(norms.max()) / median,
        "outliers": 1 - len(typical) / len(x),
        "dimension": participation_ratio(torch.linalg.eigvalsh(torch.from_numpy(covariance)).clamp(min=0)),
    }


def _section(model: str) -> dict:
    """The config section `base_model` that would mean this folder, package or id."""
    if model and Path(model).expanduser().is_dir():
        return {"source": "local", "path": str(Path(model).expanduser())}
    if model in MODELS:
        return {"source": "package", "package": model}
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model):
        raise AtlasError(
            f"{model!r}: is no folder that is there, no embedded model ({', '.join(MODELS)}) and no id of the hub"
        )
    return {"source": "hub", "id": model}


def _saved(path: Path) -> list[str]:
    """A line per layer of the held-out activations, which a finished run keeps."""
    if not path.is_dir():
        return ["", f"{path} is not there: after a run this goes on with norms and dimensions per layer"]
    group = zarr.open_group(path, mode="r")
    mask = Rows(path / "mask", group["mask"], "held-out data")[:]
    lines = [
        "",
        f"layers at {group.attrs['site']}, {int(mask.sum()):,} held-out tokens of {path}",
        f"  layer  median norm  largest/median  above {OUTLIER} medians  effective dimension without those",
    ]
    for name in sorted(folder.name for folder in path.glob("layer*")):
        seen = geometry(Rows(path / name / "site", group[f"{name}/site"], "held-out data")[:][mask])
        lines.append(
            f"  {name.removeprefix('layer'):>5}  {seen['median_norm']:>11.2f}  {seen['largest']:>14.1f}"
            f"  {seen['outliers']:>15.2%}  {seen['dimension']:>11.1f}"
        )
    return lines
