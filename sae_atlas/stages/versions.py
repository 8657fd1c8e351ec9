"""The version of a stage as it stands in identities, also in those of atlases that were begun before there were versions.

Then the hash of a stage's code stood in its place, which depended on the release of Python too. Those hashes, as they
were last, stand in code_hashes.json; an atlas that was begun with them keeps them in place of version 1.
"""

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path

from sae_atlas.io.provenance import code_identity, read_record
from sae_atlas.stages.declare import STAGES

ORIGINS = "results/base_model/**/provenance.json"  # the first that every atlas makes: of the base model


def stage_version(stage: str, begun_with: str | None = None) -> str:
    """The version of a stage. begun_with: the release of Python whose hashes an older atlas holds (`begun_with`)."""
    version = STAGES[stage].version
    older = _code_hashes()[begun_with].get(stage) if begun_with and version == 1 else None
    return older or str(version)


def begun_with(origins: Iterable[Path]) -> str | None:
    """The release of Python whose hashes the records of an atlas hold; None where they hold versions, or for a new one.

    origins: provenance files of its base models, as far as they are there.
    """
    said = {record.get("version", record.get("code")) for record in map(read_record, origins)}
    for release, hashes in _code_hashes().items():
        if said & {hashes[stage] for stage in ("prepare_model", "prepare_base", "make_tokenizer")}:
            return release
    return None


def changed_code(records: Iterable[dict]) -> list[str]:
    """Stages of which a record tells another code than there is now. Records from before there were versions do not count."""
    stages = {record["stage"]: record["code"] for record in records if "version" in record}
    return [name for name, code in stages.items() if name in STAGES and code != code_identity(*STAGES[name].modules)]


@cache
def _code_hashes() -> dict[str, dict[str, str]]:
    return json.loads((files("sae_atlas.stages") / "code_hashes.json").read_text(encoding="utf-8"))
