"""One tidy table from many."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet

from sae_atlas.errors import AtlasError
from sae_atlas.files import atomic


def collect(tables: Sequence[str | Path], output: str | Path, expects: Sequence[str]) -> None:
    """Concatenate metric tables (metrics.evaluate.COLUMNS) in the order given.

    expects: identities of the evaluations in them, in that order; they are kept in the new table. Raises AtlasError for a
    table that is of another run.
    """
    found, left = [], list(expects)
    for table in tables:
        identities = identities_of(table)
        if not identities or identities != left[: len(identities)]:
            raise AtlasError(
                f"{table}: made by other settings, code or inputs (identities {identities}). "
                "Delete it and rerun; it will be rebuilt."
            )
        left = left[len(identities) :]
        found.append(pd.read_parquet(table))
    if left:
        raise AtlasError(f"{output}: {len(left)} evaluations are in none of its tables. Delete these and rerun.")
    whole = pa.Table.from_pandas(pd.concat(found, ignore_index=True), preserve_index=False)
    with atomic(output) as partial:
        parquet.write_table(whole.replace_schema_metadata({"identities": json.dumps(list(expects))}), partial)


def identities_of(table: str | Path) -> list[str]:
    """Of the evaluations in a table: one in what evaluate writes, several in what collect writes."""
    try:
        return json.loads((parquet.read_schema(table).metadata or {}).get(b"identities", b"[]"))
    except (pa.ArrowInvalid, ValueError) as error:
        raise AtlasError(f"{table}: no readable table. Delete it and rerun; it will be rebuilt.") from error
