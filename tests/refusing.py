"""File systems without locks or links: a library, loaded before C's own, that answers as the kernel does for them."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

# A name that is taken is told first.
SOURCE = r"""
#include <errno.h>
#include <unistd.h>
int flock(int file, int operation) { errno = NO_LOCKS; return -1; }
static int refuse(const char *name) { errno = access(name, F_OK) ? EPERM : EEXIST; return -1; }
int link(const char *old, const char *new) { return refuse(new); }
int linkat(int from, const char *old, int to, const char *new, int flags) { return refuse(new); }
int symlink(const char *target, const char *name) { return refuse(name); }
"""


def refusing(folder: Path, number: int = errno.ENOLCK) -> dict[str, str]:
    """Variables of a process that meets no locks, told by this error, and no links. Skips the test without a C compiler."""
    (folder / "refusing.c").write_text(SOURCE)
    compile_it = ["cc", "-shared", "-fPIC", f"-DNO_LOCKS={number}", "-o", "refusing.so", "refusing.c"]
    if sys.platform != "linux" or subprocess.run(compile_it, cwd=folder).returncode:
        pytest.skip("needs Linux and a C compiler")
    return {"LD_PRELOAD": str(folder / "refusing.so")}
