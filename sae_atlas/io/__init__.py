"""Files, arrays, tables, records, the log, errors, names and sizes."""
