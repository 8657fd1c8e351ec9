"""The wanted column of every row of a file, row by row; other columns are not checked.

A row is a line of `.jsonl`, the last line of a record of `.csv`, the first line of a paragraph of `.txt` (paragraphs are
separated by blank lines, be they empty or of white space), and a row of `.parquet`, all from 1. A row that cannot be read is
given as `Bad`.
"""

import csv
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.log import progress
from sae_atlas.texts.files import kind, open_seekable, open_text, refuse_what_is_no_text

ROWS_AT_ONCE = 256  # of a .parquet
LINES_AT_ONCE = 2**20  # characters of them
LONGEST_FIELD = 2**31 - 1  # of a .csv
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # of other programs' .csv


@dataclass(frozen=True)
class Bad:
    """Why a row has no value."""

    why: str


Row = tuple[int, object, Collection[str]]  # number, value or Bad, names of all columns


def read_rows(file: Path, field: str, scratch: Path | None = None) -> Iterator[Row]:
    """The rows of a file. field: the column of the value, or a path of keys in it (`data.text`)."""
    if kind(file) == ".parquet":
        return _parquet(file, field, scratch)
    refuse_what_is_no_text(file)
    return {".txt": _txt, ".jsonl": _jsonl, ".csv": _csv}[kind(file)](file, field)


def columns_of(row: object) -> Collection[str]:
    return row.keys() if isinstance(row, dict) else ()


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


def has_white_space_lines(file: Path) -> bool:
    """Does a `.txt` hold lines of white space that are not empty? Finished atlases read them as part of a paragraph."""
    try:
        size = file.stat().st_size if file.suffix.lower() == ".txt" else None  # of a compressed one nobody knows it
        with open_text(file, newline=None) as opened, progress(size, "B", f"lines of {file.name}", delay=1) as bar:
            while lines := opened.readlines(LINES_AT_ONCE):
                if any(line.isspace() and line != "\n" for line in lines):
                    return True
                if size is not None:
                    bar.update(opened.buffer.tell() - bar.n)
            return False
    except (OSError, ValueError, EOFError):  # the job that reads its rows tells what is wrong
        return False


def _txt(file: Path, _: str) -> Iterator[Row]:
    lines, first = [], 1
    with open_text(file, newline=None) as opened:
        for number, line in enumerate(opened, 1):
            if not line.isspace() or not lines:
                lines.append("\n" if line.isspace() else line)
                continue
            if paragraph := "".join(lines)[:-1]:
                yield first, paragraph, ()
            lines, first = [], number + 1
    if lines:
        yield first, "".join(lines), ()


def _jsonl(file: Path, field: str) -> Iterator[Row]:
    with open_text(file, newline="\n") as opened:
        for number, line in enumerate(opened, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, Bad(f"corpus.path: no JSON ({reason(error)})"), ()
            else:
                yield number, value_of(row, field), columns_of(row)


def _csv(file: Path, field: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    with open_text(file, newline="") as opened:
        rows = csv.reader(opened, strict=True)
        try:
            header = next(rows, [])
        except csv.Error as error:
            raise AtlasError(
                f"corpus.path: {file}: its first row is no CSV ({error}); cells are separated by commas"
            ) from error
        if field not in header:
            raise AtlasError(f"{no_column(field, header).why} ({file}){_other_separator(field, header)}")
        _refuse_repeated(field, header, file)
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
                yield rows.line_num, Bad(f"corpus.path: no CSV ({error})"), header
                continue
            if len(cells) == len(header):
                yield rows.line_num, cells[column], header
            elif cells:
                yield rows.line_num, Bad(f"corpus.path: {len(cells)} cells, the header has {len(header)}"), header


def _other_separator(field: str, header: list[str]) -> str:
    """The remedy where the column is there and the commas are not."""
    cells = {separator: ",".join(header).split(separator) for separator in SEPARATORS}
    names = (SEPARATORS[each] for each in cells if field in (cell.strip(' "') for cell in cells[each]))
    return next((f"; its cells are separated by {name}, write it with commas" for name in names), "")


def _refuse_repeated(field: str, columns: list[str], file: Path) -> None:
    if columns.count(field) > 1:
        raise AtlasError(f"corpus.field: {file} has {columns.count(field)} columns {field!r}; rename one of them")


def _parquet(file: Path, field: str, scratch: Path | None) -> Iterator[Row]:
    import pyarrow.compute
    import pyarrow.parquet

    with open_seekable(file, scratch) as opened:
        parquet = pyarrow.parquet.ParquetFile(opened)
        columns = parquet.schema_arrow.names
        top, *below = [field] if field in columns else field.split(".")
        if top not in columns:
            raise AtlasError(f"{no_column(top, columns).why} ({file})")
        _refuse_repeated(top, columns, file)
        number = 0
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=[field]):
            if not batch.num_columns:
                raise AtlasError(f"corpus.field: column {top!r} has no {'.'.join(below)!r} ({file}); name another")
            column = batch.column(0)
            for value in pyarrow.compute.struct_field(column, below) if below else column:
                number += 1
                try:
                    yield number, value.as_py(), columns
                except UnicodeDecodeError as error:
                    yield number, Bad(f"corpus.path: no UTF-8 ({reason(error)})"), columns


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
