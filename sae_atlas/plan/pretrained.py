"""Recipes that train nothing: where SAEs that others published lie, checked before anything runs."""

import re
from pathlib import Path
from string import Formatter

from sae_atlas.errors import AtlasError, nearest
from sae_atlas.training.recipe import ARCHITECTURES

SAE_FILE = "sae_layer{layer:02d}_{snapshot}.pt"
# format -> where an SAE lies in its release, if that is always the same
FILES = {
    "atlas": SAE_FILE,
    "erdos": SAE_FILE,
    "saelens": None,
    "sparsify": "layers.{layer}",
    "dictionary_learning": None,
}
KEYS = {"hub": (("id",), ("revision",)), "local": (("path",), ())}
SPECIFICATION = re.compile(r"(0?[0-9]d)?")  # of a layer's digits; more may be as wide as memory
SHARED = ("source", "format", "file", "tokens")


def check_pretrained(values: dict, where: str) -> dict:
    """The recipe complete: architecture, expansion, k (TopK) and `pretrained` {source, format, file, ...}.

    Raises AtlasError, one line per problem; `where` is the key path that errors name.
    """
    problems = list(_problems(values, where))
    if problems:
        raise AtlasError("\n".join(problems))
    pretrained = values["pretrained"]
    return {**values, "pretrained": {**pretrained, "file": pretrained.get("file") or FILES[pretrained["format"]]}}


def _problems(values: dict, where: str):
    name, pretrained = values.get("architecture"), values["pretrained"]
    if name not in ARCHITECTURES:
        yield f"{where}.architecture: {name!r} is not one; {nearest(name, ARCHITECTURES)}"
    counts = ("expansion", "k") if name == "topk" else ("expansion",)
    for key in counts:
        if not _count(values.get(key)):
            yield f"{where}.{key}: {values.get(key)!r} does not fit; write the whole number that the published SAEs have"
    for key in sorted(set(values) - {"architecture", "pretrained", *counts}):
        yield f"{where}.{key}: does nothing with `pretrained`, which trains nothing; remove it"
    if not isinstance(pretrained, dict):
        yield f"{where}.pretrained: {pretrained!r} does not fit; it has the keys source, format, ..."
        return
    source, kind = pretrained.get("source"), pretrained.get("format")
    if source not in list(KEYS):  # it may be of any type
        yield f"{where}.pretrained.source: {source!r} is not one; {nearest(source, KEYS)}"
        return
    if kind not in list(FILES):
        yield f"{where}.pretrained.format: {kind!r} is not one; {nearest(kind, FILES)}"
        return
    required, optional = KEYS[source]
    for key in required:
        if not isinstance(pretrained.get(key), str):
            yield f"{where}.pretrained.{key}: missing; source `{source}` needs it"
    for key in sorted(set(pretrained) - {*SHARED, *required, *optional}):
        yield f"{where}.pretrained.{key}: no such key with source `{source}`; {nearest(key, (*SHARED, *required))}"
    if source == "local" and not Path(str(pretrained.get("path"))).expanduser().is_dir():
        yield f"{where}.pretrained.path: {pretrained.get('path')!r} is no folder here"
    if "tokens" in pretrained and not _count(pretrained["tokens"]):
        yield f"{where}.pretrained.tokens: {pretrained['tokens']!r} does not fit; write a whole number (300_000_000)"
    yield from _file_problems(pretrained.get("file") or FILES[kind], kind, f"{where}.pretrained.file")


def _file_problems(file: str | None, kind: str, where: str):
    if file is None:
        yield f"{where}: missing; format `{kind}` needs it, such as blocks.{{layer}}.hook_resid_post"
        return
    try:
        fields = [field for _, *field, _ in Formatter().parse(file) if field[0] is not None]
    except (TypeError, ValueError):  # no text; a brace alone
        fields = [("?", "")]
    if any(name not in ("layer", "snapshot") or not SPECIFICATION.fullmatch(said) for name, said in fields):
        yield f"{where}: {file!r} does not fit; in braces it may hold layer ({{layer:02d}}) and snapshot"
        return
    if file.startswith(("/", "~")) or ".." in file.split("/"):
        yield f"{where}: {file!r} leads out of the release; name a file inside it, and its folder as `path`"
        return
    try:
        names = {file.format(layer=layer, snapshot="final") for layer in (0, 1)}
    except ValueError:  # a number's format for the snapshot
        yield f"{where}: {file!r} does not fit; in braces it may hold layer ({{layer:02d}}) and snapshot"
        return
    if len(names) == 1:
        yield f"{where}: {file!r} names the same SAE for every layer; write {{layer}} in it"


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def place(recipe: dict, layer: int, snapshot: str) -> str:
    """Where the SAE of a layer and snapshot (`final` for the last) lies: in its repository, or on disk if local."""
    pretrained = recipe["pretrained"]
    file = pretrained["file"].format(layer=layer, snapshot=snapshot)
    return str(Path(pretrained["path"]).expanduser() / file) if pretrained["source"] == "local" else file


def has_snapshots(recipe: dict) -> bool:
    """Does the release hold an SAE per snapshot, or the final ones only?"""
    file = recipe["pretrained"]["file"]
    return file.format(layer=0, snapshot="a") != file.format(layer=0, snapshot="b")
