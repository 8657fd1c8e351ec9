"""The files of a text, and how they are opened, compressed or not."""

import codecs
import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TextIO

from sae_atlas.io.errors import AtlasError, listed, reason

KINDS = (".txt", ".jsonl", ".csv", ".parquet")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
SUFFIXES_TOLD = 8
HEAD = 4096  # bytes from which other encodings and pointers are told
POINTER = b"version https://git-lfs.github.com/spec/"


def kind(file: Path) -> str:
    """The suffix that says how rows are read, in lower case: of `a.JSONL.gz` it is `.jsonl`."""
    name = Path(file.name.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


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
        below = _files_below(location, key)
        inside = {file.relative_to(location).as_posix(): file for file in below if kind(file) in KINDS}
        if not inside:
            others = f"; there are {_counted(below)}" if below else ""
            raise AtlasError(f"{key}: {location} holds no {_kinds()}{others}")
        return inside
    if not os.path.isfile(location):
        raise AtlasError(
            f"{key}: {location} is not there; give a file or a folder, from here or from the config's own folder"
        )
    if kind(location) not in KINDS:
        raise AtlasError(f"{key}: {location.name} is none of {_kinds()}")
    return {location.name: location}


def other_files(path: str | list[str], key: str) -> str:
    """How many files of which suffixes lie in the folders of a text and are not read: "3 `.md`, 1 `.json`"; "" for none."""
    locations = [Path(each).expanduser() for each in ([path] if isinstance(path, str) else path)]
    below = [file for folder in locations if os.path.isdir(folder) for file in _files_below(folder, key)]
    return _counted(file for file in below if kind(file) not in KINDS)


def _files_below(location: Path, key: str) -> list[Path]:
    """All files in a folder and below in a fixed order, but hidden ones. Linked folders are entered, and each folder once.

    Raises AtlasError for a folder that cannot be read and a link that leads nowhere: part of the text would be missing.
    """

    def refuse(error: OSError) -> None:
        raise AtlasError(f"{key}: {error.filename} cannot be read ({reason(error)}); check it") from error

    files, starts, entered = [], [location], set()
    for start in starts:  # linked folders come after all that the folder holds itself, under whose names it is read
        for folder, folders, names in os.walk(start, onerror=refuse):
            real = os.path.realpath(folder)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and real not in entered)
            starts += [Path(folder, name) for name in folders if os.path.islink(Path(folder, name))]
            files += [Path(folder, name) for name in names if not name.startswith(".") and real not in entered]
            entered.add(real)
    if lost := next((file for file in files if not os.path.exists(file)), None):
        raise AtlasError(f"{key}: {lost} is a link that leads nowhere; mend or remove it")
    return sorted(file for file in files if os.path.isfile(file))


def open_text(file: Path, newline: str | None) -> TextIO:
    """Its text. Bytes that are no UTF-8 come as lone surrogates, so that their row is refused. newline: as in open()."""
    return io.TextIOWrapper(_opened(file), encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def refuse_what_is_no_text(file: Path) -> None:
    """Raise AtlasError for another encoding, or a pointer to the file: rows of it would be read as text that nobody wrote."""
    with _opened(file) as opened:
        head = opened.read(HEAD)
    if head.startswith(POINTER):
        raise AtlasError(f"corpus.path: {file} is a pointer of Git LFS and not the text; fetch it with `git lfs pull`")
    # UTF-16 of Latin script that does not begin with its mark: every second byte is zero.
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or 4 * head.count(0) > len(head):
        raise AtlasError(
            f"corpus.path: {file} is UTF-16, or no text; text is read as UTF-8 (`iconv -f UTF-16 -t UTF-8`)"
        )


def open_seekable(file: Path, scratch: Path | None) -> BinaryIO:
    """Its bytes, to be read in any order; a compressed file is unpacked into a temporary file in the folder `scratch` first."""
    if _compression(file) is None:
        return file.open("rb")
    plain = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed by who reads it)
    with _opened(file) as packed:
        shutil.copyfileobj(packed, plain)
    return plain


def _opened(file: Path) -> BinaryIO:
    compression = _compression(file)
    if compression is None:
        return file.open("rb")
    import pyarrow

    return pyarrow.input_stream(str(file), compression=compression)


def _compression(file: Path) -> str | None:
    return COMPRESSED.get(file.suffix.lower())


def _counted(files: Iterable[Path]) -> str:
    """How many there are of which suffix, the most frequent first."""
    counts = Counter(kind(file) + file.suffix.lower() * (_compression(file) is not None) for file in files)
    by_suffix = [
        f"{count:,} `{suffix}`" if suffix else f"{count:,} without a suffix" for suffix, count in counts.most_common()
    ]
    more = f" and {len(by_suffix) - SUFFIXES_TOLD} more suffixes" if len(by_suffix) > SUFFIXES_TOLD else ""
    return ", ".join(by_suffix[:SUFFIXES_TOLD]) + more


def _kinds() -> str:
    return f"{listed(KINDS)}, each also with {listed(COMPRESSED)}"
