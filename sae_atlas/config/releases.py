"""Releases of SAEs that SAELens lists: repository, path, model and format of every SAE (releases.parquet)."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sae_atlas.config.choice import l0_in
from sae_atlas.config.conversions import CONVERSIONS, Conversion
from sae_atlas.io.errors import AtlasError, closest

LIST = Path(__file__).with_name("releases.parquet")


class Release(NamedTuple):
    """saes: id -> row of the list, whose columns `model`, `path`, `l0`, `d_in`, `d_sae` and `hook` are of that SAE; None where
    the list does not state them. overrides: what SAELens puts in place of values in the SAEs' own configs."""

    name: str
    repository: str
    conversion: str | None
    overrides: dict
    saes: dict[str, dict]

    @property
    def l0_of(self) -> dict[str, float | None]:
        """id -> latents per token: as the list states it, else as the id does; None where neither does."""
        return {name: l0_in(name) if sae["l0"] is None else sae["l0"] for name, sae in self.saes.items()}

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(sae["model"] for sae in self.saes.values()))

    @property
    def reader(self) -> Conversion:
        return CONVERSIONS[self.conversion]

    @property
    def refusal(self) -> str:
        """Why its SAEs are not read, `""` where they are."""
        return self.reader.refusal

    def registered(self, name: str) -> dict:
        """What the list says of an SAE beside its own files (publish.formats.load.read)."""
        factor = self.saes[name]["norm_scaling_factor"]
        said = {"config_overrides": self.overrides or None, "norm_scaling_factor": factor}
        return {key: value for key, value in said.items() if value is not None}


def release_named(name: str) -> Release:
    """Raises AtlasError for a name that is not listed."""
    if name not in all_releases():
        raise AtlasError(f"no such release: {name!r}; {closest(name, all_releases())}; `sae-atlas releases` lists all")
    return all_releases()[name]


@cache
def all_releases() -> dict[str, Release]:
    """By name, in the order of the list."""
    from pyarrow import parquet  # here, for most configs name no release

    rows_of: dict[str, list[dict]] = {}
    for row in parquet.ParquetFile(LIST).read().to_pylist():
        rows_of.setdefault(row["release"], []).append(row)
    return {name: _release(rows) for name, rows in rows_of.items()}


def source() -> str:
    """What the list was made from: `pretrained_saes.yaml of SAELens 6.54.0`."""
    from pyarrow import parquet

    return parquet.read_schema(LIST).metadata[b"source"].decode()


def _release(rows: list[dict]) -> Release:
    first = rows[0]
    saes = {row["id"]: row for row in rows}
    return Release(
        first["release"], first["repository"], first["conversion"], json.loads(first["overrides"] or "{}"), saes
    )
