"""One tidy table from many."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from sae_atlas.errors import REMAKE, AtlasError
from sae_atlas.tables import identities, read_table, write_table


def collect(tables: Sequence[str | Path], output: str | Path, expects: Sequence[str]) -> None:
    """Concatenate metric tables (metrics.evaluate.COLUMNS) in the order given.

    expects: identities of the evaluations in them, in that order; they are kept in the new table. Raises AtlasError for a
    table that is of another run.
    """
    found, left = [], list(expects)
    for table in tables:
        held = identities(table)  # one in what evaluate writes, several in what collect writes
        if not held:
            raise AtlasError(f"{table}: says nothing of the evaluations in it. {REMAKE}")
        found.append(read_table(table, left[: len(held)]))
        left = left[len(held) :]
    if left:
        raise AtlasError(f"{output}: {len(left)} evaluations are in none of its tables. Delete these and rerun.")
    whole = pa.Table.from_pandas(pd.concat(found, ignore_index=True), preserve_index=False)
    write_table(output, whole, expects)
