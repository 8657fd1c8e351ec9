"""Published SAEs: their paths in a release, and their sizes."""

import json
from pathlib import Path

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
    file = pretrained["file"].format(layer=layer, snapshot=snapshot)
    return str(Path(pretrained["path"]).expanduser() / file) if pretrained["source"] == "local" else file


def files_at(where: str, kind: str) -> list[str]:
    """The files of a format that lie at `where` (path_in_release)."""
    return [f"{where}/{name}" for name in PAIRS[kind]] if kind in PAIRS else [where]


def has_snapshots(recipe: dict) -> bool:
    """Does the release hold an SAE per snapshot, or the final ones only?"""
    file = recipe["pretrained"]["file"]
    return file.format(layer=0, snapshot="a") != file.format(layer=0, snapshot="b")


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
        refuse(error, "pretrained.id", pretrained["id"], revision, name, also=", or use source `local`")


def expansion(d_sae: int, d_in: int) -> int | float:
    """Latents per input dimension: a whole number where it is one."""
    return d_sae / d_in if d_sae % d_in else d_sae // d_in


def completed(recipe: dict, name: str, layers: list[int]) -> dict:
    """The recipe with the width of its SAEs, as the file of the first layer states it, if the config does not.

    Where it is no whole multiple of the input dimensions, names say `d_sae`. Raises AtlasError if the file cannot be had or
    does not state it; that it is right, and the same in all layers, is checked by import_sae.
    """
    if "pretrained" not in recipe or "expansion" in recipe:
        return recipe
    where, kind = path_in_release(recipe, layers[0], "final"), recipe["pretrained"]["format"]
    file = files_at(where, kind)[0]
    try:
        path = fetch(recipe["pretrained"], file, at_hand=True)
        sizes = d_sae, d_in = _sizes_in(path, kind)
        if not all(type(size) is int and 0 < size < 2**31 for size in sizes):
            raise ValueError(f"{d_sae} latents of {d_in} dimensions")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, AtlasError) as error:
        why = error if isinstance(error, AtlasError) else f"{file} does not say it ({reason(error)})"
        raise AtlasError(
            f"recipes.{name}: the width of its SAEs cannot be told: {why}; or state `expansion`"
        ) from error
    return recipe | {"expansion": expansion(d_sae, d_in)} | ({"d_sae": d_sae} if d_sae % d_in else {})


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
    """The recipe as a config can state it: without a width that is no whole multiple."""
    return {key: value for key, value in recipe.items() if "d_sae" not in recipe or key not in ("d_sae", "expansion")}


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
