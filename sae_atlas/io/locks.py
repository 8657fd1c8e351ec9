"""Locks of files, where the file system has them."""

import errno
import fcntl
import os
from pathlib import Path

from sae_atlas.io.log import logger


def hold_lock(path: str | Path) -> None:
    """Keep an advisory lock until this process ends, however it ends: a killed run leaves nothing to unlock.

    Raises BlockingIOError if another process holds it. Where the file system has no locks, that is said and nothing held.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT, 0o666
    )  # open until the process ends; the umask says who may share
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        folder = Path(path).absolute().parent
        logger.warning("%s takes no locks (%s): only one run at a time may be at work here", folder, error.strerror)


def do_without_locks() -> None:
    """Let the hub's client and `datasets` go on where files cannot be locked, as they do after ENOSYS alone (`filelock`)."""
    flock = fcntl.flock

    def answered(*arguments) -> None:
        try:
            flock(*arguments)
        except OSError as error:
            missing = error.errno in (errno.ENOLCK, errno.EOPNOTSUPP)
            raise (OSError(errno.ENOSYS, error.strerror) if missing else error) from None

    fcntl.flock = answered
