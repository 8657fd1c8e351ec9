"""Which published SAE each layer has: the one of a release that SAELens lists, or the file whose name fits a pattern."""

import glob
import re
from pathlib import Path
from typing import NamedTuple

from sae_atlas.config.choice import ANY, chosen, fitting, l0_in
from sae_atlas.config.releases import release_named
from sae_atlas.io.errors import AtlasError, listed
from sae_atlas.io.hub import refuse, repository_files
from sae_atlas.sites import NORMALISED, SITES

HOOK = re.compile(r"blocks\.(\d+)\.(.+)")  # of TransformerLens


class Measured(NamedTuple):
    """What a config measures SAEs on. names: of the base model, as it is called in the config and by its source."""

    layers: list[int]
    site: str
    target: str | None
    names: list[str]


def measured(config: dict) -> Measured:
    """Of a config whose base model and activations are complete."""
    activations, model = config["activations"], config["base_model"]
    names = [model[key] for key in ("name", "id", "path") if key in model]
    return Measured(activations["layers"], activations["site"], activations.get("target"), names)


def resolved(pretrained: dict, key: str, on: Measured, suffix: str = "") -> dict:
    """A recipe's section `pretrained` with the repository, the format and the path of each layer's SAE where a release is
    named, and with paths by layer in place of a pattern with `*` or of a longer map.

    key: of the config, for errors. suffix: of the file in the folder that an SAE of this format is. Raises AtlasError for a
    layer without an SAE, or with several.
    """
    if pretrained["source"] == "release":
        return _of_release(pretrained, key, on)
    by_layer = pretrained["file"]
    if isinstance(by_layer, str) and ANY not in by_layer:
        return pretrained
    paths = _by_layer(by_layer, f"{key}.file", on.layers)
    if isinstance(by_layer, str):
        wanted = pretrained.get("l0")
        paths = {layer: _file(pretrained, f"{key}.file", path, suffix, wanted) for layer, path in paths.items()}
    return {name: value for name, value in pretrained.items() if name != "l0"} | {"file": _as_map(paths)}


def _of_release(pretrained: dict, key: str, on: Measured) -> dict:
    release, ids, files = release_named(pretrained["release"]), {}, {}
    l0_of = release.l0_of
    for layer, pattern in _by_layer(pretrained["sae"], f"{key}.sae", on.layers).items():
        ids[layer] = chosen(f"{key}.sae", pattern, l0_of, pretrained.get("l0"))
        sae = release.saes[ids[layer]]
        if problem := _disagreement(sae, layer, on):
            raise AtlasError(f"{key}.sae: {ids[layer]!r} of {release.name} {problem}")
        files[layer] = "/".join(filter(None, [sae["path"], release.reader.file]))
    as_given = {name: pretrained[name] for name in ("revision", "tokens") if name in pretrained}
    where = {"source": "hub", "id": release.repository, "format": release.reader.format, "file": _as_map(files)}
    if release.reader.format == "saelens":  # whose files do not say it all
        where["registered"] = _as_map({layer: release.registered(name) for layer, name in ids.items()})
    return where | {"release": release.name, "sae": _as_map(ids)} | as_given


def _disagreement(sae: dict, layer: int, on: Measured) -> str:
    """What the list says of an SAE that is not so in the config, and the remedy; `""` where nothing is."""
    if _bare(sae["model"]) not in map(_bare, on.names):
        remedy = "correct one, or call it so as base_model.name where they are one"
        return f"is of {sae['model']}, the config's base model is {on.names[0]}; {remedy}"
    if sae["hook"] is None:  # its own files may say it
        return ""
    match = HOOK.fullmatch(sae["hook"])
    if not match:
        return f"reads {sae['hook']}, which is no site of a layer; take another"
    if int(match[1]) != layer:
        return f"is of layer {match[1]}, not {layer}; correct the map"
    of_transcoder = match[2] == NORMALISED.rpartition("{layer}.")[2]
    if of_transcoder != (on.target is not None):
        kind, remedy = ("a transcoder", "name its") if on.target is None else ("an SAE", "remove")
        return f"is {kind}; {remedy} activations.target"
    site = "mlp_in" if of_transcoder else match[2].removeprefix("hook_")  # its weights are turned into that site's
    if on.site in SITES and on.site != site:
        remedy = f"`{site}`" if site in SITES else "a module path"
        return f"reads {sae['hook']}, the config's site is {on.site}; write {remedy} as activations.site"
    return ""


def _bare(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].lower()


def _by_layer(given: str | dict[str, str], key: str, layers: list[int]) -> dict[int, str]:
    """Name or pattern of every layer of the config. Raises AtlasError for layers that a map lacks."""
    if isinstance(given, str):
        return {layer: given.format(layer=layer) for layer in layers}
    missing = [layer for layer in layers if str(layer) not in given]
    if missing:
        raise AtlasError(
            f"{key}: has no layer {listed(missing)}; add what is missing, or take fewer as activations.layers"
        )
    return {layer: given[str(layer)] for layer in layers}


def _as_map(by_layer: dict[int, str]) -> dict[str, str]:
    """With keys of text, as it comes back from JSON."""
    return {str(layer): name for layer, name in sorted(by_layer.items())}


def _file(pretrained: dict, key: str, pattern: str, suffix: str, l0: float | None) -> str:
    """The file or folder that a pattern stands for, in the repository or below the local folder."""
    files = _local_files if pretrained["source"] == "local" else _hub_files
    names = [file.removesuffix(suffix) for file in files(pretrained, pattern + suffix) if file.endswith(suffix)]
    return chosen(key, pattern, {name: l0_in(name) for name in names}, l0)


def _local_files(pretrained: dict, pattern: str) -> list[str]:
    """Those that fit the pattern; all that there are where none does."""
    form = ANY.join(map(glob.escape, pattern.split(ANY)))
    where = {"root_dir": Path(pretrained["path"]).expanduser(), "include_hidden": True}
    return sorted(glob.glob(form, **where) or glob.glob("**", recursive=True, **where))


def _hub_files(pretrained: dict, pattern: str) -> list[str]:
    """All files of the repository, listed again where none fits the pattern in a list from before."""
    name, revision = pretrained["id"], pretrained.get("revision")
    try:
        files = repository_files(name, revision)
        return files if fitting(pattern, files) else repository_files(name, revision, anew=True)
    except Exception as error:  # the hub's client raises errors of many libraries
        refuse(error, "pretrained.id", name, revision, "the list of files", also=", or write a map from layer to path")
