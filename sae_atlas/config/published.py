"""Published SAEs: their paths in a release, and their sizes."""

import json
from pathlib import Path

from sae_atlas.config.by_layer import measured, resolved
from sae_atlas.config.releases import release_named
from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.hub import refuse

SAE_FILE = "sae_layer{layer:02d}_{snapshot}.pt"
# format -> where an SAE lies in its release, if that is always the same
FILES = {
    "atlas": SAE_FILE,
    "saelens": None,
    "sparsify": "layers.{layer}",
    "dictionary_learning": None,
    "erdos": SAE_FILE,
    "gemma_scope": None,
}
# format -> the files in an SAE's folder: a small one, which states its sizes, and its tensors; the others are one file
PAIRS = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
}


def path_in_release(recipe: dict, layer: int, snapshot: str) -> str:
    """Where the SAE of a layer and snapshot (`final` for the last) lies: in its repository, or on disk if local."""
    pretrained = recipe["pretrained"]
    by_layer = pretrained["file"]
    file = by_layer[str(layer)] if isinstance(by_layer, dict) else by_layer.format(layer=layer, snapshot=snapshot)
    return str(Path(pretrained["path"]).expanduser() / file) if pretrained["source"] == "local" else file


def of_layer(recipe: dict, layer: int) -> dict:
    """The recipe with that alone of its maps which is of this layer."""
    only = {key: each[str(layer)] for key, each in recipe["pretrained"].items() if isinstance(each, dict)}
    return recipe | {"pretrained": recipe["pretrained"] | only}


def files_at(where: str, kind: str) -> list[str]:
    """The files of a format that lie at `where` (path_in_release)."""
    return [f"{where}/{name}" for name in PAIRS[kind]] if kind in PAIRS else [where]


def has_snapshots(recipe: dict) -> bool:
    """Does the release hold an SAE per snapshot, or the final ones only?"""
    file = recipe["pretrained"].get("file")
    return isinstance(file, str) and file.format(layer=0, snapshot="a") != file.format(layer=0, snapshot="b")


def fetch(pretrained: dict, name: str, at_hand: bool = False) -> Path:
    """A file of the release, on this machine. at_hand: as it is in the hub client's cache, where it is.

    Raises AtlasError if the hub does not give it.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if pretrained["source"] == "local":
        return Path(name)
    revision = pretrained.get("revision", "main")
    if at_hand and isinstance(cached := try_to_load_from_cache(pretrained["id"], name, revision=revision), str):
        return Path(cached)
    try:
        return Path(hf_hub_download(pretrained["id"], name, revision=revision))
    except Exception as error:  # the hub's client raises errors of many libraries
        key = "pretrained.release" if "release" in pretrained else "pretrained.id"
        refuse(error, key, pretrained["id"], revision, name, also=", or use source `local`")


def expansion(d_sae: int, d_in: int) -> int | float:
    """Latents per input dimension: a whole number where it is one."""
    return d_sae / d_in if d_sae % d_in else d_sae // d_in


def completed(recipe: dict, name: str, config: dict) -> dict:
    """The recipe with the path of each layer's SAE, where the config does not write it, and with the width of its SAEs.

    config: with its base model and activations complete. The width is what a list of releases or the file of the first layer
    states, if the config does not; where it is no whole multiple of the input dimensions, names say `d_sae`. That it is right,
    and the same in all layers, is checked by import_sae. Raises AtlasError if a path or the width cannot be told.
    """
    if "pretrained" not in recipe:
        return recipe
    pretrained, on = recipe["pretrained"], measured(config)
    suffix = f"/{PAIRS[pretrained['format']][0]}" if pretrained.get("format") in PAIRS else ""
    recipe = recipe | {"pretrained": resolved(pretrained, f"recipes.{name}.pretrained", on, suffix)}
    if "expansion" in recipe:
        return recipe
    d_sae, d_in = _listed_sizes(recipe["pretrained"], on.layers[0]) or _stated_sizes(recipe, name, on.layers[0])
    return recipe | {"expansion": expansion(d_sae, d_in)} | ({"d_sae": d_sae} if d_sae % d_in else {})


def _listed_sizes(pretrained: dict, layer: int) -> tuple[int, int] | None:
    """Latents and input dimensions, where a list of releases states them."""
    if "release" not in pretrained:
        return None
    sae = release_named(pretrained["release"]).saes[pretrained["sae"][str(layer)]]
    return (sae["d_sae"], sae["d_in"]) if None not in (sae["d_sae"], sae["d_in"]) else None


def _stated_sizes(recipe: dict, name: str, layer: int) -> tuple[int, int]:
    """Latents and input dimensions as the file of a layer states them."""
    where, kind = path_in_release(recipe, layer, "final"), recipe["pretrained"]["format"]
    file = files_at(where, kind)[0]
    try:
        path = fetch(recipe["pretrained"], file, at_hand=True)
        d_sae, d_in = sizes = _sizes_in(path, kind)
        if not all(type(size) is int and 0 < size < 2**31 for size in sizes):
            raise ValueError(f"{d_sae} latents of {d_in} dimensions")
        return sizes
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, AtlasError) as error:
        why = error if isinstance(error, AtlasError) else f"{file} does not say it ({reason(error)})"
        raise AtlasError(
            f"recipes.{name}: the width of its SAEs cannot be told: {why}; or state `expansion`"
        ) from error


def _sizes_in(path: Path, kind: str) -> tuple[int, int]:
    if not path.is_file():
        raise AtlasError(f"{path}: is not there; check pretrained.path and pretrained.file")
    if kind in PAIRS:
        d_sae, d_in = stated_sizes(kind, json.loads(path.read_text(encoding="utf-8"))).values()
    elif kind == "gemma_scope":
        from sae_atlas.saes.archive import read_npz

        d_in, d_sae = read_npz(path, "Fetch it again.")["W_enc"].shape
    else:
        from sae_atlas.saes.checkpoint import load_tensors

        d_sae, d_in = load_tensors(path, "Fetch it again.")["model_state"]["encoder.weight"].shape
    return d_sae, d_in


def as_written(recipe: dict) -> dict:
    """The recipe as a config can state it: without a width that is no whole multiple, or what a release stands for."""
    recipe = {key: value for key, value in recipe.items() if "d_sae" not in recipe or key not in ("d_sae", "expansion")}
    if "release" not in recipe.get("pretrained", {}):
        return recipe
    told = ("source", "id", "format", "file")
    return recipe | {"pretrained": {key: value for key, value in recipe["pretrained"].items() if key not in told}}


def stated_sizes(kind: str, config: dict) -> dict[str, int | None]:
    """Latents and input dimensions, in this order, under the keys of the small file of PAIRS; None where not stated."""
    if kind == "dictionary_learning":
        trainer = config["trainer"]
        return {f"trainer.{key}": trainer.get(key) for key in ("dict_size", "activation_dim")}
    d_in, d_sae = config.get("d_in"), config.get("d_sae")
    if kind == "saelens":
        return {"d_sae": d_sae, "d_in": d_in}
    if config.get("num_latents") or None in (d_in, config.get("expansion_factor")):
        return {"num_latents": config.get("num_latents") or None, "d_in": d_in}
    return {"d_in * expansion_factor": d_in * config["expansion_factor"], "d_in": d_in}
