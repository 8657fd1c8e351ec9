"""Tables on disk: Parquet that carries the identities of what is in it. Without torch: figures read them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from sae_atlas.io.errors import REMAKE, AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.io.provenance import current_record

if TYPE_CHECKING:
    import pandas as pd


def write_table(path: str | Path, table: pa.Table, identities: Sequence[str] | None = None) -> None:
    """Write a table atomically. identities: of the jobs whose results are in it, in their order (default: the job at work)."""
    if identities is None:
        identities = [record["identity"]] if (record := current_record()) else []
    with atomic(path) as partial:
        parquet.write_table(table.replace_schema_metadata({"identities": json.dumps(list(identities))}), partial)


def table_of(columns: Mapping[str, np.ndarray | list]) -> pa.Table:
    """A table of columns of numbers [rows], of lists of numbers of one length [rows, length], or of texts.

    From buffers: any other way makes pyarrow import pandas, 0.3 s of a short job.
    """
    return pa.Table.from_arrays([_array(np.asarray(column)) for column in columns.values()], list(columns))


def _array(values: np.ndarray) -> pa.Array:
    if values.ndim == 2:
        offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
        rows = _array(values.reshape(-1))
        return pa.Array.from_buffers(pa.list_(rows.type), len(values), [None, pa.py_buffer(offsets)], children=[rows])
    if values.dtype.kind == "U":
        texts = [text.encode() for text in values.tolist()]
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def read_table(path: str | Path, may_be_empty: bool = False) -> "pd.DataFrame":
    """A table of results. Raises AtlasError if it is not readable or empty.

    may_be_empty: of a table with rows per latent that fires, for all of a layer may be dead.
    """
    import pandas as pd  # here, for training only writes tables, and 0.3 s is much of a short job

    try:
        table = pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise AtlasError(f"{path}: no readable table. {REMAKE}") from error
    if table.empty and not may_be_empty:
        raise AtlasError(f"{path}: the table has no rows. {REMAKE}")
    return table


def write_rows(path: str | Path, rows: Sequence[Mapping], columns: Sequence[str]) -> None:
    """Write these columns of rows of results."""
    write_table(path, table_of({name: [row[name] for row in rows] for name in columns}))


def read_rows(path: str | Path) -> list[dict]:
    """The rows of a table of results as JSON has them: None for NaN and infinity. Raises AtlasError if it is not readable."""
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise AtlasError(f"{path}: no readable table. {REMAKE}") from error
    return [{key: finite_or_none(value) for key, value in row.items()} for row in rows]


def finite_or_none(value: object) -> object:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def identities(path: str | Path) -> list[str]:
    """Of the jobs whose results are in a table. Raises AtlasError if it is not readable."""
    try:
        return json.loads((parquet.read_schema(path).metadata or {}).get(b"identities", b"[]"))
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise AtlasError(f"{path}: no readable table. {REMAKE}") from error
