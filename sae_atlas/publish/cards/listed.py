"""A folder that lists its files: SHA256SUMS names all that is published, so that nothing else is."""

import hashlib
import re
from pathlib import Path

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic, remove, sha256
from sae_atlas.io.log import logger
from sae_atlas.publish.cards.weights import link

SUMS = "SHA256SUMS"  # as `sha256sum --check` reads it; of every file of the folder but itself


def fill_folder(folder: Path, linked: dict[str, str | Path], hashes: dict[str, str], written: dict[str, str]) -> None:
    """Make `folder` hold exactly these files: `linked`, name in the folder -> source, and `written`, name -> text.

    hashes: sha256 of every linked file. The last of `written` is written last. Files that SHA256SUMS of an earlier time
    lists and that are still what it says are removed if they are not among these; other files stay, and a warning names
    them: they are somebody's own.
    """
    hashes = hashes | {name: hashlib.sha256(text.encode()).hexdigest() for name, text in written.items()}
    _remove_stale(folder, hashes)
    # Before the files: those of a job that is killed between them are known to the next one.
    with atomic(folder / SUMS) as partial:
        partial.write_text("".join(f"{digest}  {name}\n" for name, digest in hashes.items()), encoding="utf-8")
    if not all([link(source, folder / name) for name, source in linked.items()]):
        logger.warning("%s: holds copies and takes disk of its own, for no hard links can be made there", folder)
    for name, text in written.items():
        with atomic(folder / name) as partial:
            partial.write_bytes(text.encode())
    for name in unlisted(folder, hashes):
        logger.warning("%s: no part of what is published; `sae-atlas push` asks to remove it first", folder / name)


def read_sums(folder: Path) -> dict[str, str]:
    """Name of a file in the folder -> its sha256, from SHA256SUMS; nothing where there is none.

    Raises AtlasError for lines that are not those of `sha256sum`.
    """
    if not (folder / SUMS).is_file():
        return {}
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    matches = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines]
    if not all(matches):
        raise AtlasError(
            f"{folder / SUMS}: line {matches.index(None) + 1} is no sha256 and name; fetch the folder or make it again"
        )
    return {match[2]: match[1] for match in matches}


def unlisted(folder: Path, hashes: dict[str, str]) -> list[str]:
    """Files in the folder that its list does not name, sorted."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return sorted(there - {SUMS, *hashes})


def _remove_stale(folder: Path, hashes: dict[str, str]) -> None:
    for name, digest in read_sums(folder).items():
        path = folder / name
        if name in hashes or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            continue
        if sha256(path) == digest:
            remove(path)
            logger.info("%s: removed, for the config does not make it any more", path)
