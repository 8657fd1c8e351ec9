"""A GPU of its own for every job of a machine: a lock file per card, held until the process ends, however it ends.

A job takes a free card before CUDA is initialised and from then on sees no other (CUDA_VISIBLE_DEVICES), whatever library
asks. A given CUDA_VISIBLE_DEVICES, as clusters set it, says among which cards. The lock files lie in the machine's folder
for temporary files, one for all users of a card; they stay there, and only the lock on them counts.
"""

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path

from sae_atlas.io.log import logger

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 2.0  # s between looks for a free card
LOOKS_PER_LINE = 150  # looks for one line in the log
DRIVER = Path("/dev/nvidiactl")
QUESTION = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
_held: list[int] = []  # descriptors of this process's locks


def cards() -> list[str]:
    """UUIDs of the machine's cards in the order of their numbers, if torch is built for them. CUDA stays uninitialised."""
    import torch

    if torch.version.cuda is None or not DRIVER.exists():
        return []
    try:
        return subprocess.run(QUESTION, capture_output=True, encoding="utf-8", check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("nvidia-smi does not tell this machine's GPUs (%s): jobs may share one", error)
        return []


def visible() -> dict[str, str]:
    """Cards that this process may use: what CUDA_VISIBLE_DEVICES calls each -> its UUID."""
    there = cards()
    if VISIBLE not in os.environ:
        return {uuid: uuid for uuid in there}
    uuids = {}
    for name in map(str.strip, os.environ[VISIBLE].split(",")):
        uuid = _uuid(name, there)
        if uuid is None:  # CUDA, too, reads no further
            break
        uuids[name] = uuid
    return uuids


def _uuid(name: str, there: list[str]) -> str | None:
    """Of a card given by number, by UUID or its beginning, or by the name of a part of one; None for none of the machine's.

    Numbers are nvidia-smi's: CUDA's own where all cards are alike, or with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    if name.isdecimal():
        return there[int(name)] if int(name) < len(there) else None
    if name.startswith("MIG-"):
        return name
    return next((uuid for uuid in there if name and uuid.startswith(name)), None)


def take(every: bool = False) -> None:
    """Hold a free card until this process ends, and see no other; with `every` all that are free now, at least one.

    Waits for one if all are held by other jobs. A card that is the only one given is used at once, for whoever gave it
    has chosen; it is held if nobody holds it. Without cards, or on a second call, nothing happens.
    """
    candidates = {} if _held else visible()
    if not candidates:
        return
    only = len(candidates) == 1 and VISIBLE in os.environ
    looks = 0
    try:
        while not (taken := _lock_free(candidates, every)) and not only:
            if looks % LOOKS_PER_LINE == 0:
                logger.warning("all GPUs are in use by other jobs (%s); waiting for one", ", ".join(candidates))
            looks += 1
            time.sleep(POLL)
    except OSError as error:
        logger.warning("%s takes no locks (%s): jobs may share a GPU", tempfile.gettempdir(), error.strerror)
        return
    if taken:
        os.environ[VISIBLE] = ",".join(taken)
    logger.info("GPU: %s", os.environ[VISIBLE])


def _lock_free(candidates: dict[str, str], every: bool) -> list[str]:
    """Names of the cards that this process holds from now on."""
    taken = []
    for name, uuid in candidates.items():
        if (every or not taken) and _lock(uuid):
            taken.append(name)
    return taken


def _lock(uuid: str) -> bool:
    """Lock the file of a card, unless another process has. Raises OSError where files cannot be locked."""
    descriptor = _open(Path(tempfile.gettempdir()) / f"sae-atlas-{uuid.replace('/', '-')}.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:
        os.close(descriptor)
        raise
    _held.append(descriptor)
    return True


def _open(path: Path) -> int:
    """A descriptor to lock. Others may only read, and need no more: no system lets them create what is there already."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        descriptor, own = tempfile.mkstemp(prefix=path.name)
    try:
        os.fchmod(descriptor, 0o644)  # whatever the umask, and before anybody can meet it
        os.link(own, path)
    except FileExistsError:  # another was faster
        os.close(descriptor)
        return os.open(path, flags)
    finally:
        os.unlink(own)
    return descriptor
