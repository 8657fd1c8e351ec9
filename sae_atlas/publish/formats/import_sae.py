"""Take over an SAE or transcoder that others published: fetch it, check it against the config, write it as a checkpoint."""

import re
from pathlib import Path

from sae_atlas.base_models.load import load
from sae_atlas.config.published import PAIRS, fetch, files_at, may_lack
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, sha256
from sae_atlas.io.log import logger
from sae_atlas.io.provenance import current_record
from sae_atlas.own_arrays.files import SITE
from sae_atlas.publish.formats.hooks import is_same_site, measured_site
from sae_atlas.publish.formats.load import read
from sae_atlas.publish.formats.trained_on import check_model
from sae_atlas.saes.checkpoint import save
from sae_atlas.sites import HEADS, MODULE_INPUT, NORMALISED, SITES
from sae_atlas.sites.norms import norm_weights
from sae_atlas.sites.values import value_bias

SHA256 = re.compile("[0-9a-f]{64}")


def import_sae(
    base_model: str | Path,
    checkpoint: str | Path,
    recipe: dict,
    where: str,
    layer: int,
    tokens: int,
    base: str,
    site: str,
    target: str | None = None,
    revision: str | None = None,
) -> None:
    """Write the `checkpoint` of an SAE of a recipe with `pretrained`; with a `target` that of a transcoder.

    where: its file or folder, in the repository or on disk (config.published). tokens: those of the SAE's name; base, revision:
    of the base model, as the config has them. A transcoder that reads what the norm gives before its weights gets weights of
    its own for `mlp_in`, so that it computes the same there; an SAE that reads heads without the biases of their values gets
    these. Raises AtlasError if the SAE cannot be had, is damaged, states anything else than the config does, or was trained
    on other weights.
    """
    model = read_json(base_model)
    pretrained = recipe["pretrained"]
    path, hashes = _fetch(pretrained, where)
    about = {"k": recipe.get("k"), "registered": pretrained.get("registered")}
    sae = read(path, pretrained["format"], is_transcoder=target is not None, **about)
    config = sae["config"]
    if "d_out" in config and (config["activations"]["site"], site) == (NORMALISED, "mlp_in"):
        _read_after_weights(sae, base_model, layer)
    trained_on = {"site": site, **({"target": target} if target else {}), "layer": layer}
    _check(path, config, recipe, trained_on, model)
    check_model(path, config["activations"]["base_model"] or {}, model, base, revision)
    if config["activations"].get("folded"):
        _read_with_biases(sae, base_model, path, site, layer)
    said = config.get("tokens")
    logger.info("%s: %d -> %d latents, says it saw %s tokens", path, config["d_in"], config["d_sae"], said or "?")
    stated = {key: value for key, value in config.get("stated", {}).items() if isinstance(value, (str, int, float))}
    config = {
        "recipe": recipe | ({"skip": True} if "skip.weight" in sae["model_state"] else {}),
        **{key: config[key] for key in ("d_in", "d_sae", "d_out", "token_norm") if key in config},
        "tokens": tokens,
        "normaliser": {"scale": config["normaliser"]["scale"]},
        "activations": {"base_model": {key: model.get(key) for key in ("source", "revision")}} | trained_on,
        "stated": stated,
        "files_sha256": hashes,
        "record": current_record(),
    }
    save(checkpoint, sae["model_state"], config, {"trained_tokens": said})


def _read_after_weights(sae: dict, base_model: str | Path, layer: int) -> None:
    """Turn a transcoder that reads what the norm gives before its weights into one that reads mlp_in."""
    scale, shift = norm_weights(load(base_model, "float32", "cpu")[0], layer)
    state = sae["model_state"]
    if len(scale) != state["encoder.weight"].shape[1]:
        return  # `_check` says which widths differ
    for name, bias in (("encoder.weight", "encoder.bias"), ("skip.weight", "decoder.bias")):
        if name in state:
            state[name] = state[name] / scale
            state[bias] = state[bias] - state[name] @ shift
    sae["config"]["activations"]["site"] = "mlp_in"


def _read_with_biases(sae: dict, base_model: str | Path, path: Path, site: str, layer: int) -> None:
    """Turn an SAE that reads heads without the biases of their values into one that reads what the model gives."""
    folded = sae["config"]["activations"]["folded"]
    if not is_same_site(HEADS, site, layer, None):  # its renamed file may not say what it reads
        raise AtlasError(f"{path}: its site is {HEADS}, the config's {site}; correct the config")
    bias = value_bias(load(base_model, "float32", "cpu")[0], site, layer, with_norm="fold_ln" in folded)
    if len(bias) != sae["config"]["d_in"]:
        raise AtlasError(
            f"{path}: its input dimension is {sae['config']['d_in']}, that of {site} is {len(bias)}; correct the config or "
            "the file"
        )
    sae["model_state"]["b_pre"] += bias


def _fetch(pretrained: dict, where: str) -> tuple[Path, dict[str, str]]:
    """The file or folder on this machine, and the hashes of what is read of it."""
    kind = pretrained["format"]
    names = files_at(where, kind)
    optional = may_lack(kind, names)
    is_local = pretrained["source"] == "local"
    fetched = [Path(name) if is_local else fetch(pretrained, name, optional=name in optional) for name in names]
    pairs = [(name, file) for name, file in zip(names, fetched, strict=True) if file is not None]
    missing = [file for name, file in pairs if not file.is_file() and name not in optional]
    if missing:
        raise AtlasError(f"{missing[0]}: is not there; check pretrained.path and pretrained.file")
    files = [file for _, file in pairs if file.is_file()]
    if is_local:
        _check_inside(files, Path(pretrained["path"]).expanduser().resolve())
    hashes = {file.name: sha256(file) for file in files}
    for file in () if is_local else files:
        _check_listed_sum(file, hashes[file.name], pretrained["id"])
    if kind not in PAIRS:
        return files[-1], hashes
    # A file may lie in a folder of the SAE's.
    return files[-1].parents[PAIRS[kind][-1].count("/")], hashes


def _check_inside(files: list[Path], release: Path) -> None:
    """Raise AtlasError if a link leads out of the release. A snapshot in the hub client's cache is links into its blobs."""
    top = release.parents[1] if release.parent.name == "snapshots" else release
    for file in files:
        if not file.resolve().is_relative_to(top):
            raise AtlasError(
                f"{file}: is a link that leads out of {release}; give the folder it leads to as pretrained.path"
            )


def _check_listed_sum(file: Path, digest: str, name: str) -> None:
    """Raise AtlasError and remove the file if its bytes are not those that the hub lists: its client checks lengths only.

    In the client's cache the name of a large file's content is the sha256 that the hub lists.
    """
    content = file.resolve()
    if SHA256.fullmatch(content.name) and content.name != digest:
        content.unlink()
        raise AtlasError(
            f"pretrained.id: {file.name} of {name} came with other bytes than the hub lists (sha256 differs); it was "
            "removed, run again to fetch it anew"
        )


def _check(path: Path, config: dict, recipe: dict, trained_on: dict, model: dict) -> None:
    """trained_on: site, layer and, of transcoders, target, as the config has them; model: the base model's provenance."""
    own, activations, d_model, sites = config["recipe"], config["activations"], model["d_model"], model.get("sites")
    if "d_out" in config and "target" not in trained_on:
        raise AtlasError(f"{path}: is a transcoder, the config's are SAEs; name what it predicts as activations.target")
    if "d_out" not in config and "target" in trained_on:
        raise AtlasError(f"{path}: is an SAE, the config's are transcoders; remove activations.target")
    said = {
        "architecture": (own["architecture"], recipe["architecture"]),
        "k": (k := own.get("k", config.get("stated", {}).get("k")), recipe.get("k", k)),
        "number of latents": (config["d_sae"], recipe.get("d_sae", config["d_sae"])),
        "expansion": (config["d_sae"] / config["d_in"], recipe["expansion"]),
        "layer": (activations["layer"], trained_on["layer"]),
        "input dimension": (config["d_in"], d_model if trained_on["site"] in (*SITES, SITE) else None),
        "output dimension": (config.get("d_out"), d_model if trained_on.get("target") in SITES else None),
    }
    for key, (theirs, ours) in said.items():
        if None not in (theirs, ours) and theirs != ours:
            raise AtlasError(f"{path}: its {key} is {theirs}, the config's {ours}; correct the config or the file")
    for key in ("site", "target"):
        theirs, ours = activations.get(key), trained_on.get(key)
        if None in (theirs, ours) or is_same_site(theirs, ours, trained_on["layer"], sites):
            continue
        theirs = measured_site(theirs, trained_on["layer"], sites)
        remedy = "correct the config or the file"
        if theirs == NORMALISED:
            remedy = "write mlp_in"
        elif sites and theirs.removeprefix(MODULE_INPUT).startswith(f"{sites['blocks']}.{{layer}}."):
            remedy = f"the model does not have the same at both: write that path as activations.{key}"
        raise AtlasError(f"{path}: its {key} is {theirs}, the config's {ours}; {remedy}")
