"""One tidy table from many."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sae_atlas.files import atomic


def collect(tables: Sequence[str | Path], output: str | Path) -> None:
    """Concatenate metric tables (metrics.evaluate.COLUMNS) in the order given."""
    whole = pd.concat([pd.read_parquet(table) for table in tables], ignore_index=True)
    with atomic(output) as partial:
        whole.to_parquet(partial, index=False)
