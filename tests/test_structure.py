"""Imports flow one way: no room needs one that needs it, and the library does not know what runs it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1] / "sae_atlas"


def imports(file: Path) -> set[str]:
    """Modules that a file names in imports, wherever in it they stand."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def test_rooms_form_no_circle():
    needs = {}
    for file in LIBRARY.rglob("*.py"):
        room = file.relative_to(LIBRARY).with_suffix("").parts[0]
        if not room.startswith("__"):  # the package's own face, which leads everywhere
            inside = [name.split(".")[1] for name in imports(file) if name.startswith("sae_atlas.")]
            needs.setdefault(room, set()).update(set(inside) - {room})
    assert needs["plan"] > {"config", "io", "stages"} and len(needs) > 15
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' <- '.join(error.args[1])}") from None


def test_the_library_knows_nothing_of_snakemake():
    assert [file for file in LIBRARY.rglob("*.py") if any(name.startswith("snakemake") for name in imports(file))] == []
