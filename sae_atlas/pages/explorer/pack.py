"""Data of the explorer as scripts: a page opened from disk may load scripts, and nothing else.

A file is one call, `explorerData(key, text)`, where text is gzip in base64: no content can end the string or the script.
"""

import base64
import gzip
import json
import math
from pathlib import Path

import numpy as np


def write_pack(folder: Path, key: str, value: object) -> None:
    """Write `value`, bytes or what JSON can hold, to `folder/key.js`. key: letters, digits, `/` and `_`."""
    content = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    path = folder / f"{key}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    path.write_text(f'explorerData("{key}","{text}");\n', encoding="utf-8")


def short(values, digits: int = 3) -> list[float | None]:
    """Numbers with so many significant digits, whole ones as int; None for what is not finite."""
    numbers = []
    for value in np.asarray(values, np.float64).tolist():
        value = float(f"{value:.{digits}g}") if math.isfinite(value) else None
        numbers.append(int(value) if value is not None and value == int(value) else value)
    return numbers
