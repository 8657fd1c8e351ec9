"""Whether an SAE that others published was trained on the base model at hand: its name, its weights, its revision."""

import re
from pathlib import Path

from sae_atlas.io.errors import AtlasError

COMMIT = re.compile("[0-9a-f]{40}")
REMEDY = (
    "take the model that it was trained on, or begin a training at it (start_from), which takes SAEs of any weights"
)


def check_model(path: Path, theirs: dict, model: dict, base: str, revision: str | None) -> None:
    """Raise AtlasError where an SAE says that it is of another model.

    theirs: what the SAE at `path` says of its base model: source, revision, weights_sha256, as far as it does; model: the
    provenance of the one at hand; base, revision: its name and revision in the config. Where both sides have hashes of the
    weights, these alone say which they are.
    """
    source, names = theirs.get("source"), {base, model["source"].split()[-1]}
    bare = {name.rsplit("/", 1)[-1].lower() for name in names}
    if source and source.split()[-1].rsplit("/", 1)[-1].lower() not in bare:
        raise AtlasError(f"{path}: says it is of {source}, the config's base model is {sorted(names)[0]}; correct one")
    weights, ours = theirs.get("weights_sha256"), model.get("weights_sha256")
    if weights and ours:
        if file := _other_file(weights, ours):
            raise AtlasError(
                f"{path}: was trained on {_described(theirs, file)}, the config's base model is {_described(model, file)}; "
                f"{REMEDY}"
            )
    elif _is_other_revision(theirs.get("revision"), model, revision):
        raise AtlasError(
            f"{path}: was trained on revision {theirs['revision']} of {source}, the config's is {revision or 'main'}; write it "
            "as base_model.revision"
        )


def _other_file(theirs: dict[str, str], ours: dict[str, str]) -> str | None:
    """A file of weights that only one side has with these bytes; None where they are one model's.

    A folder may hold the same weights in a second form. An adapter makes others of them.
    """
    files = sorted({*theirs, *ours})
    others = [file for file in files if theirs.get(file) != ours.get(file)]
    if len(others) == len(files):
        return others[0]
    return next((file for file in others if (file in theirs and file in ours) or file.startswith("adapter_")), None)


def _described(about: dict, file: str) -> str:
    at = f" at {about['revision']}" if about.get("revision") else ""
    digest = about["weights_sha256"].get(file)
    return f"{about.get('source')}{at} ({file}: {f'sha256 {digest[:8]}' if digest else 'none'})"


def _is_other_revision(stated: str | None, model: dict, revision: str | None) -> bool:
    """Whether the revision that an SAE states is known to be another. A branch or tag and a commit do not compare."""
    if stated is None or not model["source"].startswith("hub "):
        return False
    if COMMIT.fullmatch(stated):
        return model.get("revision") not in (None, stated)
    return stated != (revision or "main") and not COMMIT.fullmatch(revision or "main")
