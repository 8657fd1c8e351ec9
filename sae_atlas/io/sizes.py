"""Sizes and times as people write them: `300M`, `1.5B`, `4096`; `12 min`."""

import re

LARGEST = 2**63  # sizes go into arrays and file formats that hold no larger ones
UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def parse_size(size: int | str) -> int:
    """Number of things meant by `300M`, `1.5B`, `120k` or a plain integer.

    Raises ValueError if the text is no size, not a whole number of things, or 2^63 and more.
    """
    match = re.fullmatch(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?([kMB]?)", str(size))
    if not match:
        raise ValueError(f"{size!r} is not a size; write for example 4096, 120k, 300M or 1.5B")
    whole, fraction, unit = match[1], match[2] or "", match[3]
    scaled = int(whole + fraction) * UNITS[unit]
    if scaled % 10 ** len(fraction):
        raise ValueError(f"{size!r} is not a whole number")
    number = scaled // 10 ** len(fraction)
    if number >= LARGEST:
        raise ValueError(f"{size!r} is larger than anything here can be")
    return number


def format_size(number: int) -> str:
    """Shortest exact text without a decimal point (file names hold it): 1_500_000 -> `1500k`."""
    for unit in ("B", "M", "k"):
        if number and number % UNITS[unit] == 0:
            return f"{number // UNITS[unit]}{unit}"
    return str(number)


def format_rounded(number: int) -> str:
    """To three digits, for people: 1_234_567 -> `1.23M`."""
    for unit in ("B", "M", "k"):
        if number >= 0.9995 * UNITS[unit]:  # or 999,999 would be 1e+03k
            return f"{number / UNITS[unit]:.3g}{unit}"
    return str(number)


def format_seconds(seconds: float) -> str:
    """`8.4 s`, `12.0 min`, `3.2 h`, `12.5 days`, `1,147 days`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.95 * size:
            return f"{seconds / size:,.{0 if seconds >= 100 * size else 1}f} {unit}"
    return f"{seconds:.1f} s"


def grid_words(recipes: int, layers: int, snapshots: int) -> str:
    """`2 recipes x 1 layer x 3 snapshots`"""
    counts = {"recipe": recipes, "layer": layers, "snapshot": snapshots}
    return " x ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())
