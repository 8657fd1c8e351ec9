"""The wanted column of every row of a file, row by row; other columns are not checked.

A row is a line of `.jsonl`, the last line of a record of `.csv`, the first line of a paragraph of `.txt` (paragraphs are
separated by blank lines), and a row of `.parquet`, all from 1. A row that cannot be read is given as `Bad`.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.texts.files import kind, open_seekable, open_text

ROWS_AT_ONCE = 256  # of a .parquet
LONGEST_FIELD = 2**31 - 1  # of a .csv


@dataclass(frozen=True)
class Bad:
    """Why a row has no value."""

    why: str


def read_rows(file: Path, field: str, scratch: Path | None = None) -> Iterator[tuple[int, object]]:
    """(row, value or Bad) of a file. field: the column, or a path of keys in it (`data.text`)."""
    if kind(file) == ".parquet":
        return _parquet(file, field, scratch)
    return {".txt": _txt, ".jsonl": _jsonl, ".csv": _csv}[kind(file)](file, field)


def value_of(row: object, field: str) -> object:
    """What a row holds in the column `field`, or on a path of keys; Bad if it has none."""
    value = row
    for part in [field] if isinstance(row, dict) and field in row else field.split("."):
        if not isinstance(value, dict):
            return Bad(f"corpus.field: {field!r} leads to {_short(value)}, which has no keys")
        if part not in value:
            return no_column(part, value)
        value = value[part]
    return value


def no_column(name: str, columns) -> Bad:
    return Bad(f"corpus.field: no column {name!r}; there is {', '.join(map(str, columns)) or 'none'}")


def _txt(file: Path, _: str) -> Iterator[tuple[int, object]]:
    lines, first = [], 1
    with open_text(file, newline=None) as opened:
        for number, line in enumerate(opened, 1):
            if line != "\n" or not lines:
                lines.append(line)
                continue
            if paragraph := "".join(lines)[:-1]:
                yield first, paragraph
            lines, first = [], number + 1
    if lines:
        yield first, "".join(lines)


def _jsonl(file: Path, field: str) -> Iterator[tuple[int, object]]:
    with open_text(file, newline="\n") as opened:
        for number, line in enumerate(opened, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, Bad(f"corpus.path: no JSON ({reason(error)})")
            else:
                yield number, value_of(row, field)


def _csv(file: Path, field: str) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(LONGEST_FIELD)
    with open_text(file, newline="") as opened:
        rows = csv.reader(opened, strict=True)
        header = next(rows, [])
        if field not in header:
            raise AtlasError(f"{no_column(field, header).why} ({file})")
        if header.count(field) > 1:
            raise AtlasError(f"corpus.field: {file} has {header.count(field)} columns {field!r}; rename one of them")
        column = header.index(field)
        while True:
            before = rows.line_num
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if rows.line_num > before + 1:  # an open quote has taken the rows after it
                    raise AtlasError(
                        f"corpus.path: {file}: {error} in what begins in row {before + 1}; mend it"
                    ) from error
                yield rows.line_num, Bad(f"corpus.path: no CSV ({error})")
                continue
            if len(cells) == len(header):
                yield rows.line_num, cells[column]
            elif cells:
                yield rows.line_num, Bad(f"corpus.path: {len(cells)} cells, the header has {len(header)}")


def _parquet(file: Path, field: str, scratch: Path | None) -> Iterator[tuple[int, object]]:
    import pyarrow.compute
    import pyarrow.parquet

    with open_seekable(file, scratch) as opened:
        parquet = pyarrow.parquet.ParquetFile(opened)
        columns = parquet.schema_arrow.names
        top, *below = [field] if field in columns else field.split(".")
        if top not in columns:
            raise AtlasError(f"{no_column(top, columns).why} ({file})")
        number = 0
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=[field]):
            if not batch.num_columns:
                raise AtlasError(f"corpus.field: column {top!r} has no {'.'.join(below)!r} ({file}); name another")
            column = batch.column(0)
            for value in pyarrow.compute.struct_field(column, below) if below else column:
                number += 1
                try:
                    yield number, value.as_py()
                except UnicodeDecodeError as error:
                    yield number, Bad(f"corpus.path: no UTF-8 ({reason(error)})")


def _short(value: object) -> str:
    return repr(value)[:80]


def plain_text(value: object) -> str:
    """The value, which must be text that UTF-8 can write. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"holds {_short(value)}, which is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        character = value[error.start]
        byte = f"byte 0x{ord(character) - 0xDC00:02x}" if "\udc80" <= character <= "\udcff" else repr(character)
        raise ValueError(f"holds {byte} at character {error.start + 1}, which is no UTF-8") from error
    return value
