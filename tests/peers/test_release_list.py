"""The list of releases in the package is that of SAELens."""

import pyarrow.parquet as parquet
from release_list import FILE, rows, source


def test_the_list_is_that_of_the_installed_saelens():
    table = parquet.ParquetFile(FILE).read()
    assert table.to_pylist() == rows(), "write it again: `make releases`"
    assert table.schema.metadata[b"source"].decode() == source()
