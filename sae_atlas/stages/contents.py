"""Files of the user's own that a config names are inputs: the hash of their content stands in the identity of what reads them.

Older releases took none. What they made is kept as long as the content is what it was when it was first seen by one that
does, since nobody can tell what it was before; of a model its weights were recorded, and of an SAE all that was read, so of
them that can be told.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from sae_atlas.base_models.adapters import model_files
from sae_atlas.base_models.packages import find_text
from sae_atlas.config.own_models import TUNED
from sae_atlas.config.published import files_at, may_lack, path_in_release
from sae_atlas.config.start_files import files_of_start, start_file
from sae_atlas.io.contents import Contents, Present
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json
from sae_atlas.io.provenance import read_record
from sae_atlas.own_arrays.files import KEY, files_of, find_layers
from sae_atlas.saes.archive import read_arrays
from sae_atlas.stages.atlas import ROW_TEXTS, SAVED, Atlas, job_name
from sae_atlas.stages.corpus import row_texts_of
from sae_atlas.texts.files import kind, text_files
from sae_atlas.texts.rows import has_white_space_lines

RECORDS = (
    "results/base_model/**/provenance.json",
    "results/corpus/**/*.zarr/zarr.json",
    "results/checkpoints/*/*.pt",
    "results/starts/*/*.pt",
)  # of the stages that read them
MEMORY = "results/contents.json"
LOCAL = ("local", "restoration")  # sources that are files of the user's own
# Joins the hash of a `.txt` with lines of white space: they separate documents, and in older corpora they did not.
SEPARATED = " separated by white space"


def local_contents(
    config: dict, file: str, records: Iterable[Path], memory: Path | None, begun_with: str | None = None
) -> dict[str, str]:
    """Hash of what a config's own files hold, by the job that reads them (job_name); of outputs from before without one: none.

    records: of what is there. memory: where hashes are kept; None: the files are not read, only their presence is checked.
    begun_with: see stages.versions. Raises AtlasError, which names the config's `file`, for a file that is not there, unless
    what was made from it is.
    """
    contents, records, hashes = Contents(memory) if memory else Present(), list(records), {}
    try:
        hashes |= _of_texts_and_models(config, contents, records)
        hashes |= _of_saved_activations(config, contents)
        atlas = Atlas(config, begun_with, contents=hashes)
        hashes |= _of_saes(atlas, contents, records)
        hashes |= _of_starts(atlas, contents, records)
    except AtlasError as error:
        raise AtlasError(f"{file}: {error}") from error
    contents.keep()
    return hashes


def _of_texts_and_models(config: dict, contents: Contents, records: list[Path]) -> dict[str, str]:
    plain, hashes = Atlas(config), {}
    recorded = [(path, record) for path in records if path.suffix == ".json" and (record := read_record(path))]
    for stage, key, section in _sources(config):
        settings = json.loads(json.dumps(plain.settings(stage)))
        about = [each for each in recorded if (each[1].get("stage"), each[1].get("settings")) == (stage, settings)]
        if section["source"] in LOCAL:
            content = _content(contents, stage, key, section, *(about[0] if about else (None, {})))
            if content:
                hashes[stage] = content
        if "tokenize" in stage and not about:
            _check_text(section)
    return hashes


def _check_text(section: dict) -> None:
    """Of what is tokenized nothing is read again."""
    if section["source"] == "package":
        find_text(section["package"])
    if section["source"] == "local" or "topic" in section:
        from sae_atlas.texts.documents import check_text  # here, for most starts need none of it

        check_text(section)


def _of_saved_activations(config: dict, contents: Contents) -> dict[str, str]:
    """Of every layer its file; of all the shape, on which alone the order of the rows depends; and the text of the rows."""
    if config["base_model"]["source"] != "activations":
        return {}
    from sae_atlas.own_arrays.read import common_shape  # here, for other configs are read without arrays

    locations = find_layers(config["base_model"]["path"])
    chosen = {layer: locations[layer] for layer in config["activations"]["layers"]}
    shape = common_shape(chosen)
    of_layers = {
        job_name(SAVED, layer=layer): _hashed(contents, files_of(location), KEY)[0]
        for layer, location in chosen.items()
    }
    hashes = {"prepare_model": f"{shape.rows} x {shape.width}", **of_layers}
    if row_texts := row_texts_of(config["corpus"]):
        content = _hashed(contents, text_files(row_texts["path"], "corpus.path"), "corpus.path", are_texts=True)[0]
        hashes[ROW_TEXTS] = f"{content} {row_texts.get('field')}"
    return hashes


def _sources(config: dict) -> Iterator[tuple[str, str, dict]]:
    """(stage, key of the config, section) of all texts, and of models that are files of the user's own."""
    model = config["base_model"]
    named = [("tokenize", "corpus", config["corpus"]), ("prepare_model", "base_model", model)]
    if model["source"] in TUNED:
        named += [
            ("prepare_base", "base_model.base", model["base"]),
            ("tokenize_domain", "base_model.lora.corpus", model["lora"]["corpus"]),
        ]
    for stage, key, section in named:
        if section["source"] in LOCAL or "tokenize" in stage:
            yield stage, f"{key}.path", section


def _content(contents: Contents, stage: str, key: str, section: dict, path: Path | None, record: dict) -> str | None:
    """path, record: of what the stage made with these settings; None and {} if nothing is there."""
    recorded, are_texts = record.get("inputs", {}).get("content"), "tokenize" in stage
    try:
        files = text_files(section["path"], key) if are_texts else model_files(section["path"], key)
    except AtlasError:
        if path is None:
            raise
        return recorded  # what was made of it is still there
    content, hashes = _hashed(contents, files, key, are_texts)
    if path is None or recorded:
        return content
    if record["identity"] not in contents.first_seen and not _told_otherwise(path, hashes):
        contents.first_seen[record["identity"]] = content
        _warn_if_newer(files.values(), key, path, stage)
    return None if contents.first_seen.get(record["identity"]) == content else content


def _of_saes(atlas: Atlas, contents: Contents, records: list[Path]) -> dict[str, str]:
    """Of published SAEs on this machine. atlas: with the content of its base model."""
    checkpoints, hashes = _by_name(records), {}
    for recipe in atlas.pretrained:
        values = atlas.config["recipes"][recipe]
        if values["pretrained"]["source"] != "local":
            continue
        for layer, snapshot in product(atlas.layers, atlas.snapshots_of(recipe)):
            where = path_in_release(values, layer, atlas.published(snapshot))
            kind = values["pretrained"]["format"]
            there = files_at(where, kind)
            lacking = [file for file in may_lack(kind, there) if not Path(file).is_file()]
            files = {Path(file).name: Path(file) for file in there if file not in lacking}
            cell = {"recipe": recipe, "layer": layer, "snapshot": snapshot}
            checkpoint = checkpoints.get((recipe, f"sae_layer{layer:02d}_{snapshot}.pt"))
            content = _content_of_sae(contents, files, f"recipes.{recipe}.pretrained", checkpoint)
            hashes[job_name("import_sae", **cell)] = content
    return hashes


def _by_name(records: list[Path]) -> dict[tuple[str, str], Path]:
    """The checkpoints among them by recipe and name."""
    return {path.parts[-2:]: path for path in records if path.suffix == ".pt"}


def _recorded(checkpoint: Path) -> str | None:
    """The content that a checkpoint was made of, whose files are gone."""
    return read_arrays(checkpoint)["config"]["record"]["inputs"].get("content")


def _of_starts(atlas: Atlas, contents: Contents, records: list[Path]) -> dict[str, str]:
    """Of the SAEs on this machine at which training begins."""
    starts, hashes = _by_name(records), {}
    for recipe, layer in product(atlas.trained, atlas.layers):
        path = atlas.config["recipes"][recipe].get("start_from", {}).get("path")
        if path is None:
            continue
        key, file = f"recipes.{recipe}.start_from", start_file(path, layer)
        files = {each.name: each for each in files_of_start(file)}
        start = starts.get((recipe, f"sae_layer{layer:02d}.pt"))
        if not files and start is None:
            raise AtlasError(f"{key}.path: {file} is not there, or holds no SAE; layer {layer} begins at it")
        content = _hashed(contents, files, key)[0] if files else _recorded(start)
        hashes[job_name("import_start", recipe=recipe, layer=layer)] = content
    return hashes


def _content_of_sae(contents: Contents, files: dict[str, Path], key: str, checkpoint: Path | None) -> str:
    """files: by name; key: of the config that names them. checkpoint: what was made of them, if it is there."""
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        if checkpoint is None:
            raise AtlasError(f"{key}: {missing[0]} is not there; check pretrained.path and pretrained.file")
        return _recorded(checkpoint)
    return _hashed(contents, files, key)[0]


def _hashed(
    contents: Contents, files: dict[str, Path], key: str, are_texts: bool = False
) -> tuple[str, dict[str, str]]:
    """The hash of all, and that of each. files: by name; key: of the config that names them."""
    hashes = dict(zip(files, contents.sha256(list(files.values()), key), strict=True))
    for name, file in files.items() if are_texts else ():
        if kind(file) == ".txt" and contents.remembered(file, "white_space_lines", has_white_space_lines):
            hashes[name] += SEPARATED
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16], hashes


def _told_otherwise(path: Path, hashes: dict[str, str]) -> bool:
    """Whether a base model's provenance says that its weights were others."""
    about = read_json(path)
    if about.get("source", "").startswith("restoration"):
        return about["source_sha256"] not in hashes.values()
    weights = about.get("weights_sha256", {})
    return any(hashes.get(file) != value for file, value in weights.items())


def _warn_if_newer(files: Iterable[Path], key: str, path: Path, stage: str) -> None:
    for file in files:
        if file.stat().st_mtime > path.stat().st_mtime:
            print(
                f"{key}: {file} is newer than {path}, which was made before contents were recorded and is kept. If the"
                f" content is another now, make it again: --forcerun {stage}",
                file=sys.stderr,
            )
            return
