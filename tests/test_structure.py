"""Imports flow one way: no room needs one that needs it, and the library does not know what runs it."""

import ast
import re
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


def opens_text(node: ast.AST) -> bool:
    """Is it a call that reads or writes a text file, or what another program writes?"""
    if not isinstance(node, ast.Call):
        return False
    if {"text", "universal_newlines"} & {each.arg for each in node.keywords}:
        return True
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "write_text"):
        return True
    modes = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if isinstance(node.func, ast.Attribute):  # path.open("w"); of archives and arrays the name is the first argument
        return node.func.attr == "open" and len(modes) == 1 and set(modes[0]) <= set("rwax+")
    return isinstance(node.func, ast.Name) and node.func.id == "open" and not any("b" in mode for mode in modes[-1:])


def test_text_is_utf_8_whatever_the_locale():
    files = [
        *LIBRARY.rglob("*.py"),
        *(LIBRARY.parent / "workflow").rglob("*.py"),
        *(LIBRARY.parent / "benchmarks").glob("*.py"),
    ]
    calls = [
        (file, node)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if opens_text(node)
    ]
    said = {keyword.value.value for _, node in calls for keyword in node.keywords if keyword.arg == "encoding"}
    assert said == {"utf-8"} and len(calls) > 40
    assert [
        f"{file}:{node.lineno}" for file, node in calls if "encoding" not in {each.arg for each in node.keywords}
    ] == []
    for file in (*(LIBRARY.parent / "workflow").rglob("*.smk"), LIBRARY.parent / "Snakefile"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\b(open|read_text|write_text)\((?![^)]*encoding=\"utf-8\")", text), file
