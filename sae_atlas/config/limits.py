"""Limits of any config, checked before its keys: plain values, few enough to be checked one by one.

YAML can say a great deal in a few lines: aliases of aliases that are billions of values once they are followed, a list
that holds itself, numbers of a million digits. They are refused here, in one line, before anything else is done.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

from sae_atlas.io.errors import AtlasError, escaped, reason
from sae_atlas.io.sizes import LARGEST

BYTES = 2**18  # the parser needs seconds for more
VALUES = 20_000  # aliases followed
DEPTH = 24
LETTERS = 2_000
NUMBERED = (".pretrained.file", ".pretrained.sae")  # sections whose keys may be layers
OF_TOKENS = ("corpus.exclude", "base_model.lora.corpus.exclude")  # lists of tokens, which may be line ends
TOO_MANY = f"holds more than {VALUES} values once its aliases are followed; write less"
TOO_DEEP = f"is nested more than {DEPTH} deep, or holds itself; write it flat"


def read_plain(file: str | Path) -> object:
    """The value of a YAML file, within the limits. Raises AtlasError with one line; nothing in the file is ever run."""
    file = Path(file)
    if not file.is_file():
        raise AtlasError(f"{file}: is {'no file' if file.exists() else 'not there'}; give the path of a config file")
    try:
        with file.open("rb") as opened:
            content = opened.read(BYTES + 1)
        if len(content) > BYTES:
            raise AtlasError(f"{file}: is larger than {BYTES:,} bytes; no config is")
        content = content.decode("utf-8-sig")
        node = yaml.compose(content, yaml.SafeLoader)
        problem = _size_problem(node, _children)  # before aliases are followed: `<<` copies what it merges
        if problem:
            raise AtlasError(f"{file}: {problem}")
        return yaml.safe_load(content)
    except UnicodeDecodeError as error:
        raise AtlasError(f"{file}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, " ".join(str(error.problem).split())[:200]
        remedy = "indent with spaces" if r"\t" in problem else "mend it"
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise AtlasError(f"{file}: cannot be read as YAML ({at}{problem}); {remedy}") from error
    except RecursionError as error:
        raise AtlasError(f"{file}: {TOO_DEEP}") from error
    except (
        OSError,
        yaml.YAMLError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # the last four: dates, keys, digits
        raise AtlasError(f"{file}: cannot be read as YAML ({reason(error)[:200]})") from error


def limit_problems(config: object) -> list[str]:
    """What is wrong with the values of a config: a line each, with the key."""
    if not isinstance(config, dict):
        return ["is no config: it has no keys (`base_model:`, `corpus:`, ...) at the top"]
    problem = _size_problem(config, lambda value: [inner for _, inner in _items(value)])
    return [problem] if problem else list(_value_problems(config, ""))


def shortened(line: str) -> str:
    """An error with both its ends, the key and the remedy, however long the value between them."""
    return line if len(line) <= 600 else f"{line[:300]} ... {line[-300:]}"


def _size_problem(top: object, children: Callable[[object], Iterable]) -> str | None:
    waiting, seen = [(top, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEPTH:
            return TOO_DEEP
        if seen > VALUES:
            return TOO_MANY
        waiting.extend((inner, depth + 1) for inner in children(value))
    return None


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _items(value: object) -> list[tuple[object, object]]:
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else []


def _value_problems(value: object, where: str):
    if isinstance(value, (dict, list, tuple)):
        for key, inner in _items(value):
            if isinstance(value, dict) and not isinstance(key, str) and not _is_layer(key, where):
                yield f"{within(where, key)}: a key must be text; write it in quotes"
            elif isinstance(key, str) and _letters_problem(key):
                yield f"{within(where, key)}: a key {_letters_problem(key)}"
            else:
                yield from _value_problems(inner, within(where, key))
    elif isinstance(value, str):
        if problem := _letters_problem(value, any_character=where.rpartition(".")[0] in OF_TOKENS):
            yield f"{where}: {problem}"
    elif isinstance(value, int):
        if abs(value) >= LARGEST:
            yield f"{where}: a number of {value.bit_length()} bits; no number here needs more than 63"
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{where}: {value!r} is no number to compute with"
    elif value is not None:
        yield f"{where}: YAML reads this as {type(value).__name__}; write it in quotes"


def _is_layer(key: object, where: str) -> bool:
    """A key of a map from layer to text."""
    return type(key) is int and where.endswith(NUMBERED)


def _letters_problem(text: str, any_character: bool = False) -> str | None:
    if len(text) > LETTERS:
        return f"has {len(text)} characters; {LETTERS} are the most"
    if not any_character and not text.isprintable():  # line ends would forge lines in logs, cards and file names
        return "has characters that cannot be printed, such as line ends; write it on one line"
    return None


def within(where: str, key: object) -> str:
    """The dotted path of a key, in one line."""
    key = escaped(str(key)[:40])
    return f"{where}.{key}" if where else key
