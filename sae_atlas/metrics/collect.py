"""One tidy table from many."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from sae_atlas.io.tables import identities, read_table, write_table


def collect(tables: Sequence[str | Path], table: str | Path) -> None:
    """Concatenate metric tables (metrics.evaluate.METRIC_COLUMNS) in the order given, with the identities that they carry."""
    whole = pd.concat(map(read_table, tables), ignore_index=True)
    collected = [identity for each in tables for identity in identities(each)]
    write_table(table, pa.Table.from_pandas(whole, preserve_index=False), collected)
