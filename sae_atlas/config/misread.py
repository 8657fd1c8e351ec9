"""What YAML reads otherwise than it stands in a file: of keys that stand twice it takes the last, and 064 is 52 to it.

Neither can be seen in the values that are read, so the file itself is looked at.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from sae_atlas.config.limits import shortened, within
from sae_atlas.io.errors import AtlasError

MERGE = "tag:yaml.org,2002:merge"  # `<<`, whose section gives only the keys that are not there
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
OCTAL = re.compile(r"[-+]?0[0-7_]+")
LONGEST = 40  # digits; numbers of more are refused as such


def check_misread(files: Iterable[str | Path]) -> None:
    """Raise AtlasError for keys that stand twice in a section of a file, and for numbers in base 8 or 60: a line each.

    Whether a file is YAML, and its values right, is left to those who read it.
    """
    lines = []
    for file in files:
        try:
            top = yaml.compose(Path(file).read_bytes(), yaml.SafeLoader)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue
        lines += [f"{file}: {shortened(problem)}" for problem in _problems(top, "", set())]
    if lines:
        raise AtlasError("\n".join(lines))


def _problems(node: yaml.Node | None, where: str, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # an alias, maybe of what it stands in
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield from _repeated(node, where)
        for key, value in node.value:
            name = where if key.tag == MERGE else within(where, key.value)
            yield from _problems(key, name, seen)
            yield from _problems(value, name, seen)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _problems(value, within(where, number), seen)
    elif isinstance(node, yaml.ScalarNode) and (problem := _misread(node)):
        yield f"{where}: {problem}"


def _repeated(section: yaml.MappingNode, where: str) -> Iterator[str]:
    lines: dict[tuple[str, str], list[str]] = {}
    for key, _ in section.value:
        if key.tag != MERGE:
            lines.setdefault((key.tag, str(key.value)), []).append(_line(key))
    for (_, key), at in lines.items():
        if len(at) > 1:
            times = "twice" if len(at) == 2 else f"{len(at)} times"
            yield f"{within(where, key)} stands {times} (lines {', '.join(at[:-1])} and {at[-1]}); rename or remove one"


def _misread(scalar: yaml.ScalarNode) -> str | None:
    text, octal = scalar.value, OCTAL.fullmatch(scalar.value)
    if scalar.style or scalar.tag not in NUMBERS or len(text) > LONGEST or not (octal or ":" in text):
        return None
    read = yaml.safe_load(text)
    number = int(text.replace("_", "")) if octal else read
    if octal and number == read:  # 007
        return None
    return f'{text} (line {_line(scalar)}) is read as {read} by YAML; write {number}, or "{text}" where text is meant'


def _line(node: yaml.Node) -> str:
    return str(node.start_mark.line + 1)
