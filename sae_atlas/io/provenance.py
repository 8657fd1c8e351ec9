"""Records of what made an output: its stage and the stage's version, settings, inputs, code and packages.

Snakemake forgets params when `.snakemake/` is lost, so every output carries its identity, the hash of the record's stage,
version, settings and inputs. It is known before anything runs: it tells whether what lies on disk is what is asked for,
and the next stage checks it. Code and packages are told in the record and do not count.
"""

import hashlib
import json
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "zarr", "numpy", "numba")
_at_work: ContextVar[dict | None] = ContextVar("record", default=None)


def identity(stage: str, settings: dict, version: str, inputs: dict[str, str]) -> str:
    """16 hex digits that change exactly when the stage's numbers may."""
    text = json.dumps([stage, settings, version, inputs], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_identity(*rooms: str) -> str:
    """Hash of the package's modules and templates under `rooms` (`training`, `corpus.py`), blind to comments."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in rooms:
        files = [root / room] if room.endswith(".py") else sorted(_sources(root / room))
        if not files:
            raise ValueError(f"no module under sae_atlas/{room}")
        for file in files:
            digest.update(str(file.relative_to(root)).encode())
            digest.update(_without_comments(file.read_bytes()))
    return digest.hexdigest()[:16]


def _sources(folder: Path) -> list[Path]:
    """Modules, and the templates they fill with what goes into them."""
    return [file for file in folder.rglob("*") if file.suffix in (".py", ".jinja", ".css", ".js")]


def _without_comments(text: bytes) -> bytes:
    # Line by line: to parse the modules of a stage takes up to 0.5 s, and every job tells this hash.
    lines = (line.rstrip() for line in text.splitlines())
    return b"\n".join(line for line in lines if line and not line.lstrip().startswith(b"#"))


def make_record(stage: str, settings: dict, version: str, inputs: dict[str, str], code: str | None = None) -> dict:
    """The record an output carries. Plain values only: it is stored as JSON and inside checkpoints.

    version: of the stage; inputs: identities by the input's name; code: hash of the stage's modules (`code_identity`).
    """
    settings, inputs = _plain(settings), _plain(inputs)
    return {
        "stage": stage,
        "identity": identity(stage, settings, version, inputs),
        "version": version,
        "settings": settings,
        "code": code,
        "inputs": inputs,
        "versions": _versions(),
    }


@contextmanager
def recording(record: dict) -> Iterator[None]:
    """What is written inside carries `record`: files hold the identity of the job that made them without being told."""
    token = _at_work.set(record)
    try:
        yield
    finally:
        _at_work.reset(token)


def current_record() -> dict | None:
    """The record of the job at work; None outside the workflow, where outputs carry none."""
    return _at_work.get()


def carries(path: str | Path, identities: Sequence[str]) -> bool:
    """Whether the file at `path` is there and holds every one of `identities`, which are not empty.

    Every kind of output holds its job's identity as plain text: JSON, attributes of Zarr, metadata of Parquet, PNG and SVG,
    the pickled part of a checkpoint, comments and front matter of pages. So nothing needs to be decoded to find it.
    """
    wanted = [each.encode() for each in identities]
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(each) >= 0 for each in wanted)
    except (OSError, ValueError):  # not there, a folder, or empty
        return False


def read_record(path: str | Path) -> dict:
    """The `record` of a JSON file or of Zarr's metadata; an empty one if there is none or the file is not readable."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return content.get("attributes", content)["record"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _plain(value: object) -> object:
    return json.loads(json.dumps(value, allow_nan=False))


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
