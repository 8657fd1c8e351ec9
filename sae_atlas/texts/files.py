"""The files of a text, and how they are opened, compressed or not."""

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, TextIO

from sae_atlas.io.errors import AtlasError, listed

KINDS = (".txt", ".jsonl", ".csv", ".parquet")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


def kind(file: Path) -> str:
    """The suffix that says how rows are read: of `a.jsonl.gz` it is `.jsonl`."""
    return Path(file.stem).suffix if file.suffix in COMPRESSED else file.suffix


def text_files(path: str | list[str], key: str) -> dict[str, Path]:
    """Files by name in a fixed order: of a file, a folder (all of a known kind in it and below, but hidden ones) or a list.

    Raises AtlasError, which names the `key` of the config.
    """
    if isinstance(path, list):
        return {
            f"{each}/{name}" if os.path.isdir(Path(each).expanduser()) else each: file
            for each in path
            for name, file in text_files(each, key).items()
        }
    location = Path(path).expanduser()
    if os.path.isdir(location):  # unlike Path.is_dir, False for a name that no file can have
        names = {file.relative_to(location): file for file in sorted(location.rglob("*")) if kind(file) in KINDS}
        inside = {
            name.as_posix(): file
            for name, file in names.items()
            if file.is_file() and not any(part.startswith(".") for part in name.parts)
        }
        if not inside:
            raise AtlasError(f"{key}: {location} holds no {_kinds()}")
        return inside
    if not os.path.isfile(location):
        raise AtlasError(
            f"{key}: {location} is not there; give a file or a folder, from here or from the config's own folder"
        )
    if kind(location) not in KINDS:
        raise AtlasError(f"{key}: {location.name} is none of {_kinds()}")
    return {location.name: location}


def open_text(file: Path, newline: str | None) -> TextIO:
    """Its text. Bytes that are no UTF-8 come as lone surrogates, so that their row is refused. newline: as in open()."""
    return io.TextIOWrapper(_opened(file), encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def open_seekable(file: Path, scratch: Path | None) -> BinaryIO:
    """Its bytes, to be read in any order; a compressed file is unpacked into a temporary file in the folder `scratch` first."""
    if file.suffix not in COMPRESSED:
        return file.open("rb")
    plain = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed by who reads it)
    with _opened(file) as packed:
        shutil.copyfileobj(packed, plain)
    return plain


def _opened(file: Path):
    import pyarrow

    return pyarrow.input_stream(str(file), compression=COMPRESSED.get(file.suffix))


def _kinds() -> str:
    return f"{listed(KINDS)}, each also with {listed(COMPRESSED)}"
