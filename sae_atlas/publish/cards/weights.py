"""Put weights where they are published: a hard link where that is safe, else a copy."""

import os
import shutil
from pathlib import Path

from sae_atlas.io.files import atomic


def link(source: str | Path, target: Path) -> bool:
    """Give `source` a second name, which takes no disk; a copy where the file system has no hard links. Is it a link?"""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        copy(source, target)
        return False
    return True


def copy(source: str | Path, target: str | Path) -> None:
    """A file of its own, with its own time: a workflow that compares times must not see the source's."""
    with atomic(target) as partial:
        shutil.copyfile(source, partial)
