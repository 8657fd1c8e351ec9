"""What can be read from a model, to choose site and layer by: named sites, module paths with their widths, and of
activations that were saved their norms, outliers and effective dimension.
"""

from pathlib import Path

import numpy as np
import torch
import zarr
from torch._subclasses.fake_tensor import FakeTensorMode

from sae_atlas.base_models.packages import MODELS
from sae_atlas.config.layers import model_config
from sae_atlas.config.made import base_of
from sae_atlas.config.read import read_config
from sae_atlas.io.arrays import Rows
from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.hub import refuse
from sae_atlas.metrics.importance import participation_ratio
from sae_atlas.sites import INPUTS, SITES, blocks, module_name, module_paths

CONTEXT = 8  # tokens of the pass that finds widths; any number does
OUTLIER = 10  # medians above which a token's norm is an outlier, the default of activations.outlier_norm


def list_sites(model: str, directory: str | Path = ".") -> str:
    """Sites and module paths of a config file's model, a folder in transformers format, an embedded model or a hub id.

    Under it, for a config file, the layers whose activations its run in `directory` saved. No weights are read. Raises
    AtlasError if the model's config cannot be had.
    """
    configured = model.endswith((".yaml", ".yml"))
    section = read_config(model)["base_model"] if configured else _section(model)
    results = Path(directory) / "results"
    found = _empty(section, results / "base_model" / "model" if configured else None)
    count, width = len(blocks(found)), found.config.get_text_config().hidden_size
    lines = [f"{type(found).__name__}: layers 0 to {count - 1}, d_model {width}", "", "sites"]
    for site in SITES:
        try:
            path = module_name(found, site, 0)
        except AtlasError:
            lines.append(f"  {site:<12} none: attention and MLP of a block are parallel, or it does more than add them")
            continue
        lines.append(f"  {site:<12} {width:>6}  {'input of ' * (site in INPUTS)}{_templated(path)}")
    lines += ["", "module paths, with the width of their output (activations.site takes them as they stand)"]
    for path, size in widths(found, 0).items():
        lines.append(f"  {size:>6}  {_templated(path)}")
    return "\n".join([*lines, *(_saved(results / "held_out.zarr") if configured else [])])


def widths(model: torch.nn.Module, layer: int) -> dict[str, int]:
    """Module path in a block -> last dimension of its output, in the order they are run. `model` holds fake tensors."""
    found: dict[str, int] = {}

    def keep(path: str, output) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(output, torch.Tensor) and output.shape[:2] == (1, CONTEXT):  # an activation per token
            found[path] = output.shape[-1]

    handles = [
        model.get_submodule(path).register_forward_hook(lambda _, __, output, path=path: keep(path, output))
        for path in module_paths(model, layer)
    ]
    with next(model.parameters()).fake_mode, torch.inference_mode():
        model(torch.zeros(1, CONTEXT, dtype=torch.long), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def geometry(x: np.ndarray) -> dict[str, float]:
    """Of activations [tokens, d_in]: what tells layers apart.

    median_norm, in the activations' unit; largest, the largest norm over it; outliers, the share of tokens above OUTLIER
    medians (0 to 1); dimension, the effective dimension of the others: (sum of the covariance's eigenvalues)^2 / sum of
    their squares, 1 to d_in.
    """
    x = x.astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    median = float(np.median(norms))
    kept = x[norms <= OUTLIER * median]
    covariance = np.cov(kept, rowvar=False, bias=True).reshape(x.shape[1], x.shape[1])
    return {
        "median_norm": median,
        "largest": float(norms.max()) / median,
        "outliers": 1 - len(kept) / len(x),
        "dimension": participation_ratio(torch.linalg.eigvalsh(torch.from_numpy(covariance)).clamp(min=0)),
    }


def _section(model: str) -> dict:
    """The config section `base_model` that would mean this folder, package or id."""
    if Path(model).expanduser().is_dir():
        return {"source": "local", "path": str(Path(model).expanduser())}
    return {"source": "package", "package": model} if model in MODELS else {"source": "hub", "id": model}


def _empty(section: dict, prepared: Path | None) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    config = _config(base_of(section), prepared)
    with FakeTensorMode():  # shapes without numbers, through whatever the model does
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False).eval()


def _config(section: dict, prepared: Path | None):
    """The transformers config of a section `base_model`, from the folder `prepared` if that is there."""
    from transformers import AutoConfig

    from sae_atlas.base_models.restoration import read_restoration

    source, kept = section["source"], {"trust_remote_code": False}
    try:
        if prepared and (prepared / "config.json").is_file():
            return AutoConfig.from_pretrained(prepared, local_files_only=True, **kept)
        if source == "restoration":
            return read_restoration(section["path"]).config
        if source == "local":
            return AutoConfig.from_pretrained(section["path"], local_files_only=True, **kept)
        if source == "hub":
            return AutoConfig.from_pretrained(section["id"], revision=section.get("revision"), **kept)
        return AutoConfig.for_model(**{"bos_token_id": 0, "eos_token_id": 0, **model_config(section)})
    except (OSError, ValueError, TypeError) as error:
        if source == "hub" and isinstance(error, OSError):
            refuse(error, "base_model.id", section["id"], section.get("revision"), "config.json")
        raise AtlasError(f"base_model: its config cannot be had ({reason(error)}); check source and network") from error


def _templated(path: str) -> str:
    return ".".join("{layer}" if part == "0" else part for part in path.split("."))


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
