"""One SAE of several whose names fit a pattern: the one whose L0 is nearest to what is wanted."""

import re
from collections.abc import Mapping

from sae_atlas.io.errors import AtlasError, closest, listed

ANY = "*"  # in a pattern: any characters but `/`, and braces, which are of formats; all others stand for themselves
L0 = re.compile(r"(?<![a-z0-9])l0_(\d+(?:\.\d+)?)", re.IGNORECASE)
WHOLE = r"(?:(?<!\d)|(?!\d))"  # not inside a number: `layer_1*` does not stand for layer_10
SHOWN = 5


def fitting(pattern: str, names: list[str]) -> list[str]:
    """Those of `names` that a pattern stands for, in their order."""
    form = re.compile(f"{WHOLE}[^/{{}}]*{WHOLE}".join(map(re.escape, pattern.split(ANY))))
    return [name for name in names if form.fullmatch(name)]


def l0_in(name: str) -> float | None:
    """The last number behind `l0_` in a name: 71 of `layer_20/width_16k/average_l0_71`. None where there is none."""
    numbers = L0.findall(name)
    return float(numbers[-1]) if numbers else None


def chosen(key: str, pattern: str, l0_of: Mapping[str, float | None], wanted: float | None) -> str:
    """The name that `pattern` stands for; of several the one whose L0 is nearest to `wanted`, of two as near the smaller L0.

    key: of the config, for errors. l0_of: name -> latents per token, None where nobody says it. Raises AtlasError where no
    name fits, several do without `wanted`, one of them states no L0, or two have the same.
    """
    names = fitting(pattern, list(l0_of))
    if not names:
        raise AtlasError(f"{key}: nothing is called {pattern!r}; {closest(pattern, l0_of)}")
    if len(names) == 1:
        return names[0]
    if wanted is None:
        raise AtlasError(f"{key}: {pattern!r} fits {_few(names)}; write the wanted L0 as `l0`, or more of the name")
    if unknown := [name for name in names if l0_of[name] is None]:
        raise AtlasError(f"{key}: {pattern!r} fits {_few(unknown)}, whose L0 is not stated; write more of the name")
    nearest = min(names, key=lambda name: (abs(l0_of[name] - wanted), l0_of[name]))
    if len(same := [name for name in names if l0_of[name] == l0_of[nearest]]) > 1:
        raise AtlasError(f"{key}: {pattern!r} fits {_few(same)}, which have one L0; write more of the name")
    return nearest


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return listed(names[:SHOWN]) + more
