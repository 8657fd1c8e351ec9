"""Published SAEs: their paths in a release, and their sizes."""

import json
from pathlib import Path

from sae_atlas.config.by_layer import measured, resolved
from sae_atlas.config.layouts import LAYOUTS
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
    "gemma_scope_2": None,
    "llama_scope": None,
    "llama_scope_r1_distill": None,
    "qwen_scope": "layer{layer}.sae.pt",
    "goodfire": None,
    "deepseek_r1": None,
    "connor_rob_hook_z": None,
    "circuit_tracer": "layer_{layer}.safetensors",
}
EXAMPLES = {  # of the others
    "saelens": "blocks.{layer}.hook_resid_post",
    "dictionary_learning": "resid_post_layer_{layer}/trainer_0",
    "gemma_scope": "layer_{layer}/width_16k/average_l0_71/params.npz",
    "gemma_scope_2": "resid_post/layer_{layer}_width_16k_l0_medium",
    "llama_scope": "Llama3_1-8B-Base-L{layer}R-8x",
    "llama_scope_r1_distill": "400M-Slimpajama-400M-OpenR1-Math-220k/L{layer}R",
    "goodfire": "Llama-3.1-8B-Instruct-SAE-l{layer}.pth",
    "deepseek_r1": "DeepSeek-R1-Distill-Llama-8B-SAE-l{layer}.pt",
    "connor_rob_hook_z": "gpt2-small_L{layer}_Hcat_z.pt",
}
# format -> the files in an SAE's folder: a small one, which says what it is, and its tensors; the others are one file
PAIRS = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "gemma_scope_2": ("config.json", "params.safetensors"),
    "llama_scope": ("hyperparams.json", "checkpoints/final.safetensors"),
    "llama_scope_r1_distill": ("config.json", "sae_weights.safetensors"),
}
# format of one file per SAE -> the small file beside them, which is about all SAEs of the folder
BESIDE = {"qwen_scope": "config.json", "circuit_tracer": "config.yaml"}
# Formats that releases have published without their small file, too.
OPTIONAL = ("gemma_scope_2", "qwen_scope", "circuit_tracer")


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
    """The files of a format that lie at `where` (path_in_release); the tensors last."""
    if kind in PAIRS:
        return [f"{where}/{name}" for name in PAIRS[kind]]
    return [str(Path(where).parent / BESIDE[kind]), where] if kind in BESIDE else [where]


def may_lack(kind: str, files: list[str]) -> list[str]:
    """Those of `files` (files_at) that a release of the format may be without."""
    return files[:-1] if kind in OPTIONAL else []


def has_snapshots(recipe: dict) -> bool:
    """Does the release hold an SAE per snapshot, or the final ones only?"""
    file = recipe["pretrained"].get("file")
    return isinstance(file, str) and file.format(layer=0, snapshot="a") != file.format(layer=0, snapshot="b")


def fetch(pretrained: dict, name: str, at_hand: bool = False, optional: bool = False) -> Path | None:
    """A file of the release, on this machine. at_hand: as it is in the hub client's cache, where it is.

    Raises AtlasError if the hub does not give it; None if it is `optional` and the repository has no such file.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    if pretrained["source"] == "local":
        return Path(name)
    revision = pretrained.get("revision", "main")
    if at_hand and isinstance(cached := try_to_load_from_cache(pretrained["id"], name, revision=revision), str):
        return Path(cached)
    try:
        return Path(hf_hub_download(pretrained["id"], name, revision=revision))
    except Exception as error:  # the hub's client raises errors of many libraries
        if optional and isinstance(error, RemoteEntryNotFoundError):
            return None
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
    files = files_at(where, kind)
    file = files[0] if kind in STATED else files[-1]
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
    """Latents and input dimensions of a file: the small one of STATED, else that of the tensors."""
    if not path.is_file():
        raise AtlasError(f"{path}: is not there; check pretrained.path and pretrained.file")
    if kind in STATED:
        return tuple(stated_sizes(kind, json.loads(path.read_text(encoding="utf-8"))).values())
    if kind not in LAYOUTS:
        from sae_atlas.saes.checkpoint import load_tensors

        return tuple(load_tensors(path, "Fetch it again.")["model_state"]["encoder.weight"].shape)
    name, sides = LAYOUTS[kind]["W_enc"]
    shape = _shape_in(path, name)
    return shape if sides[0] == "d_sae" else shape[::-1]


def _shape_in(path: Path, name: str) -> tuple[int, int]:
    """Of one tensor of a file; of a .safetensors only its head is read."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            return tuple(file.get_slice(name).get_shape())
    if path.suffix == ".npz":
        from sae_atlas.saes.archive import read_npz

        return read_npz(path, "Fetch it again.")[name].shape
    from sae_atlas.saes.checkpoint import load_tensors

    return tuple(load_tensors(path, "Fetch it again.")[name].shape)


def as_written(recipe: dict) -> dict:
    """The recipe as a config can state it: without a width that is no whole multiple, or what a release stands for."""
    recipe = {key: value for key, value in recipe.items() if "d_sae" not in recipe or key not in ("d_sae", "expansion")}
    if "release" not in recipe.get("pretrained", {}):
        return recipe
    derived = ("source", "id", "format", "file", "registered")
    return recipe | {"pretrained": {key: value for key, value in recipe["pretrained"].items() if key not in derived}}


def stated_sizes(kind: str, config: dict) -> dict[str, int | None]:
    """Latents and input dimensions, in this order, under the keys of the small file of STATED; None where not stated."""
    return STATED[kind](config)


def _of_saelens(config: dict) -> dict[str, int | None]:
    if config.get("architecture") == "abstopk" and config.get("d_sae") is not None:
        return {
            "2 * d_sae": 2 * config["d_sae"],
            "d_in": config.get("d_in"),
        }  # a latent of either sign is two (saelens.py)
    return {key: config.get(key) for key in ("d_sae", "d_in")}


def _of_sparsify(config: dict) -> dict[str, int | None]:
    d_in = config.get("d_in")
    if config.get("num_latents") or None in (d_in, config.get("expansion_factor")):
        return {"num_latents": config.get("num_latents") or None, "d_in": d_in}
    return {"d_in * expansion_factor": d_in * config["expansion_factor"], "d_in": d_in}


def _of_dictionary_learning(config: dict) -> dict[str, int | None]:
    return {f"trainer.{key}": config["trainer"].get(key) for key in ("dict_size", "activation_dim")}


def _of_llama_scope(config: dict) -> dict[str, int | None]:
    d_model = config.get("d_model")
    if config.get("d_sae") or None in (d_model, config.get("expansion_factor")):
        return {"d_sae": config.get("d_sae"), "d_model": d_model}
    return {"d_model * expansion_factor": d_model * config["expansion_factor"], "d_model": d_model}


STATED = {
    "saelens": _of_saelens,
    "sparsify": _of_sparsify,
    "dictionary_learning": _of_dictionary_learning,
    "llama_scope": _of_llama_scope,
    "llama_scope_r1_distill": _of_llama_scope,
}
