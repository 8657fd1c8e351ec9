"""Files of the user's own that a config names are inputs: the hash of their content stands in the identity of what reads them.

Older releases took none. What they made is kept as long as the content is what it was when it was first seen by one that
does, since nobody can tell what it was before; of a model its weights were recorded, so of it that can be told.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sae_atlas.base_models.adapters import model_files
from sae_atlas.config.made import TUNED
from sae_atlas.io.contents import Contents
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json
from sae_atlas.io.provenance import read_record
from sae_atlas.stages.atlas import Atlas
from sae_atlas.texts.files import text_files

RECORDS = (
    "results/base_model/**/provenance.json",
    "results/corpus/**/*.zarr/zarr.json",
)  # of the stages that read them
MEMORY = "results/contents.json"


def local_contents(config: dict, file: str, records: Iterable[Path], memory: Path) -> dict[str, str]:
    """Hash of what a config's own files hold, by the stage that reads them; of outputs from before without one: none.

    records: of what is there. Raises AtlasError, which names the config's `file`, for a file that is not there, unless what
    was made from it is.
    """
    sources = list(_sources(config))
    if not sources:
        return {}
    plain, contents, found = Atlas(config), Contents(memory), {}
    made = [(path, record) for path in records if (record := read_record(path))]
    for stage, key, section in sources:
        settings = json.loads(json.dumps(plain.settings(stage)))
        about = [each for each in made if (each[1].get("stage"), each[1].get("settings")) == (stage, settings)]
        try:
            content = _content(contents, stage, key, section, *(about[0] if about else (None, {})))
        except AtlasError as error:
            raise AtlasError(f"{file}: {error}") from error
        if content:
            found[stage] = content
    contents.keep()
    return found


def _sources(config: dict) -> Iterator[tuple[str, str, dict]]:
    """(stage, key of the config, section) of all that is read from files of the user's own."""
    model = config["base_model"]
    named = [("tokenize", "corpus", config["corpus"]), ("prepare_model", "base_model", model)]
    if model["source"] in TUNED:
        named += [
            ("prepare_base", "base_model.base", model["base"]),
            ("tokenize_domain", "base_model.lora.corpus", model["lora"]["corpus"]),
        ]
    for stage, key, section in named:
        if section["source"] in ("local", "restoration"):
            yield stage, f"{key}.path", section


def _content(contents: Contents, stage: str, key: str, section: dict, path: Path | None, record: dict) -> str | None:
    """path, record: of what the stage made with these settings; None and {} if nothing is there."""
    recorded = record.get("inputs", {}).get("content")
    try:
        files = text_files(section["path"], key) if "tokenize" in stage else model_files(section["path"], key)
    except AtlasError:
        if path is None:
            raise
        return recorded  # what was made of it is still there
    names = list(files)
    hashes = dict(zip(names, contents.sha256(list(files.values()), key), strict=True))
    content = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]
    if path is None or recorded:
        return content
    if record["identity"] not in contents.first_seen and not _told_otherwise(path, hashes):
        contents.first_seen[record["identity"]] = content
        _warn_if_newer(files.values(), key, path, stage)
    return None if contents.first_seen.get(record["identity"]) == content else content


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
