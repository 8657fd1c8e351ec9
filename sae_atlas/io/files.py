"""Atomic writes: an output is whole or absent, whatever kills the job; and what a file is known by."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write a file or folder to; it becomes `path` only on success."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.partial-*"):
        remove(stale)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        _open_to_all_that_the_umask_says(partial)
        if not partial.is_dir():
            with partial.open("rb") as written:
                os.fsync(written.fileno())
        move(partial, path)
        remove(_aside(path))
    finally:
        remove(partial)


def _open_to_all_that_the_umask_says(partial: Path) -> None:
    """safetensors makes its files for their owner alone."""
    umask = os.umask(0o077)  # it can only be read by setting it
    os.umask(umask)
    for file in partial.rglob("*.safetensors") if partial.is_dir() else [partial]:
        file.chmod(0o666 & ~umask)


def move(source: Path, path: Path) -> None:
    """Put a file or folder in the place of `path`, on the same disk. What was there goes once the new one is in its place."""
    old = path.with_name(f".{path.name}.partial-old-{os.getpid()}")
    if source.is_dir() and (path.is_symlink() or path.exists()):  # a folder replaces nothing but an empty one
        os.replace(path, old)
    try:
        os.replace(source, path)
    except OSError:
        if old.is_symlink() or old.exists():
            os.replace(old, path)
        raise
    remove(old)


def take_back(backups: Path, folder: Path) -> None:
    """Put back what lies under `backups` where its file under `folder` is not there or was cut off; then remove `backups`.

    Snakemake copies the outputs of a job to .snakemake/backups before the job and back if it fails. On a full disk the second
    copy ends early; a run that is killed leaves copies of files that are whole.
    """
    for backup in [path for path in backups.rglob("*") if path.is_file()]:
        path = folder / backup.relative_to(backups)
        if not path.exists() or _is_beginning(path, backup):
            path.parent.mkdir(parents=True, exist_ok=True)
            _rename_or_copy(backup, path)
    shutil.rmtree(backups, ignore_errors=True)


def _rename_or_copy(source: Path, path: Path) -> None:
    """A full disk has no room for a second one; results may lie on another disk."""
    try:
        os.replace(source, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic(path) as partial:
            shutil.copy2(source, partial)


def _is_beginning(path: Path, whole: Path) -> bool:
    """Whether a file holds the first bytes of a longer one."""
    if path.stat().st_size >= whole.stat().st_size:
        return False
    with path.open("rb") as first, whole.open("rb") as second:
        while part := first.read(1 << 20):
            if part != second.read(len(part)):
                return False
    return True


def set_aside(path: str | Path) -> Path:
    """Rename a damaged output, so that it is made again; the new one, once whole, removes it (`atomic`). Its new name."""
    path, aside = Path(path), _aside(Path(path))
    remove(aside)
    os.replace(path, aside)
    return aside


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.damaged")


def remove(path: Path) -> None:
    """Remove a file, link or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: object) -> None:
    """Write readable JSON atomically, keys in the order given."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256(path: str | Path) -> str:
    """Of the file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
