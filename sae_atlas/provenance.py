"""Records of what made an output: its settings, the code that determines its numbers, its inputs.

Snakemake forgets params when `.snakemake/` is lost and does not see imported modules, so every output carries a
record `{stage, settings, code, inputs, versions}` and the next stage checks its identity: the hash of all but the versions.
"""

import ast
import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sae_atlas.errors import REMAKE, AtlasError

PACKAGES = ("torch", "transformers", "zarr", "numpy", "numba")


def identity(stage: str, settings: dict, code: str, inputs: dict[str, str]) -> str:
    """16 hex digits that change exactly when the stage's numbers may."""
    text = json.dumps([stage, settings, code, inputs], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_identity(*rooms: str) -> str:
    """Hash of the package's modules under `rooms` (`training`, `corpus.py`), blind to comments and docstrings."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for room in rooms:
        files = [root / room] if room.endswith(".py") else sorted(_sources(root / room))
        if not files:
            raise ValueError(f"no module under sae_atlas/{room}")
        for file in files:
            digest.update(str(file.relative_to(root)).encode())
            digest.update(_what_counts(file))
    return digest.hexdigest()[:16]


@cache
def _what_counts(file: Path) -> bytes:
    """Of a file, whose rooms and stages are many: read once for all of them."""
    text = file.read_text()
    return (ast.dump(_without_docstrings(ast.parse(text))) if file.suffix == ".py" else text).encode()


def _sources(folder: Path) -> list[Path]:
    """Modules, and the templates they fill with what goes into them."""
    return [file for file in folder.rglob("*") if file.suffix in (".py", ".jinja", ".css", ".js")]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0].value.value = ""
    return tree


def make_record(stage: str, settings: dict, code: str, inputs: dict[str, str]) -> dict:
    """The record an output carries. Plain values only: it is stored as JSON and inside checkpoints."""
    settings, inputs = _plain(settings), _plain(inputs)
    return {
        "stage": stage,
        "identity": identity(stage, settings, code, inputs),
        "settings": settings,
        "code": code,
        "inputs": inputs,
        "versions": _versions(),
    }


def check_record(path: str | Path, record: dict | None, expected: str) -> None:
    """Raise AtlasError unless `record`, read from the output at `path`, has the `expected` identity."""
    found = (record or {}).get("identity")
    if found != expected:
        raise AtlasError(
            f"{path}: made by other settings, code or inputs (identity {found}, expected {expected}). {REMAKE}"
        )


def found_identity(path: str | Path) -> str | None:
    """Identity in the `record` of a JSON file, or None if the file is not there or not readable."""
    try:
        return json.loads(Path(path).read_text())["record"]["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plain(value: object) -> object:
    return json.loads(json.dumps(value, allow_nan=False))


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
