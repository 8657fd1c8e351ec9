"""What is in files of the user's own: sha256, remembered by path, size and times, for nobody reads 140 GB at every start."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.files import write_json
from sae_atlas.io.log import progress

BLOCK = 2**22  # bytes read at once
SETTLED = 2  # seconds after which a file that changes again has another time, on any file system


class Contents:
    """Hashes of files by path, kept in the file `memory`, which may be lost: then they are made again."""

    def __init__(self, memory: Path):
        self.memory = memory
        try:
            saved = json.loads(memory.read_text(encoding="utf-8"))
            self.files, self.first_seen = dict(saved["files"]), dict(saved["first_seen"])
        except (OSError, ValueError, KeyError, TypeError):
            self.files, self.first_seen = {}, {}
        self.before = self._plain()

    def sha256(self, files: Sequence[Path], what: str) -> list[str]:
        """Of each file. what: the key of the config that names them, for errors and the bar of what has to be read."""
        paths = [str(file.absolute()) for file in files]
        new = [path for path in paths if self.files.get(path, {}).get("state") != _state(path)]
        hashes = {path: self.files[path]["sha256"] for path in paths if path not in new}
        with progress(sum(_state(path)[0] for path in new), "B", what, delay=1) as bar:
            for path in new:
                state = _state(path)
                try:
                    hashes[path] = _hash(path, bar)
                except OSError as error:
                    raise AtlasError(f"{what}: {path} cannot be read ({reason(error)})") from error
                if _state(path) != state:
                    raise AtlasError(f"{what}: {path} is being written; run again once it is whole")
                if time.time() - max(state[1:]) / 1e9 > SETTLED:
                    self.files[path] = {"state": state, "sha256": hashes[path]}
        return [hashes[path] for path in paths]

    def remembered(self, file: Path, name: str, inspect: Callable[[Path], bool]) -> bool:
        """What `inspect` says of the content of a file, kept under `name` beside its hash."""
        path = str(file.absolute())
        known = self.files.get(path, {})
        about = known if known.get("state") == _state(path) else {}
        if name not in about:
            about[name] = inspect(file)
        return about[name]

    def keep(self) -> None:
        """Write what was learned, if anything was and the folder can be written to."""
        if self._plain() != self.before:
            with suppress(OSError):
                write_json(self.memory, {"files": self.files, "first_seen": self.first_seen})

    def _plain(self) -> str:
        return json.dumps([self.files, self.first_seen])


class Present:
    """In place of Contents where only it counts that the files are there: none is read."""

    def __init__(self):
        self.first_seen: dict[str, str] = {}

    def sha256(self, files: Sequence[Path], what: str) -> list[str]:
        return [""] * len(files)

    def remembered(self, file: Path, name: str, inspect: Callable[[Path], bool]) -> bool:
        return False

    def keep(self) -> None:
        pass


def _state(path: str) -> list[int]:
    """Bytes, and when content and place were last changed: the second also where a copy was given the first's time."""
    about = Path(path).stat()
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _hash(path: str, bar) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
