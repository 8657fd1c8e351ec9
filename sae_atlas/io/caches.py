"""Folders for the caches of libraries, where HOME cannot be written."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def keep_caches_elsewhere() -> None:
    """Give this process and those it starts a temporary folder for caches, if they cannot write to HOME.

    numba and Triton end with an error where they have none, Matplotlib says it in every process.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # a user unknown here has no HOME
    there = next((folder for folder in (cache, *cache.parents) if folder.exists()), cache)
    if cache.is_absolute() and os.access(there, os.W_OK):
        return
    folder = tempfile.mkdtemp(prefix="sae-atlas-caches-")
    atexit.register(_remove, folder, os.getpid())
    if (hub := cache / "huggingface").is_dir():  # what was fetched before is still read
        os.environ.setdefault("HF_HOME", str(hub))
    os.environ.setdefault("HF_DATASETS_CACHE", folder)
    os.environ.update(XDG_CACHE_HOME=folder, MPLCONFIGDIR=folder, TRITON_HOME=folder)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and no fork of it, of which others still use the folder
        shutil.rmtree(folder, ignore_errors=True)
