"""Fill Markdown templates: whatever comes from a config or a file is escaped, numbers read as people write them."""

import re
from functools import cache

import jinja2


class Plain(str):
    """Markdown already, not to be escaped."""


def escape(text: object) -> str:
    """Text that Markdown shows as it is, on one line, also inside a table."""
    line = " ".join(str(text).split())
    line = re.sub(r"([\\`*\[\]<>|~$&])", r"\\\1", line)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # inside a word an underscore is only that


def code(text: object) -> Plain:
    """Text as a code span, also inside a table and with backticks in it."""
    line = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    gap = " " if line.startswith("`") or line.endswith("`") else ""
    return Plain(f"{fence}{gap}{line}{gap}{fence}")


def number(value: float | None) -> str:
    """1,234,567; 0.0123; 3e-05: whole numbers whole, others with four digits."""
    if value is None:
        return "not measured"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 9999.5 else f"{value:,.0f}"


def interval(row: dict) -> str:
    """The 95 % interval of a metric's row, or nothing where there is none."""
    return "" if row["low"] is None or row["high"] is None else f"{number(row['low'])} to {number(row['high'])}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sae_atlas.publish.cards"),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Plain) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "number": number, "interval": interval, "plain": Plain}
    return environment


def fill(template: str, **facts) -> str:
    """The template of that name in cards/templates, filled."""
    return _environment().get_template(template).render(**facts)
