"""`base_model.dtype`: what `auto` stands for. It is settled before identities are made, once for an atlas."""

import json
from pathlib import Path

from sae_atlas.io.devices import multiplies_bfloat16
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, write_json

DTYPES = ("float32", "bfloat16", "float16")
SETTLED = "results/dtype.json"  # of an atlas that was begun with `auto`


def settled(dtype: str, device: str, kept: Path | None) -> str:
    """The dtype itself, for passes on `device` (training.device).

    kept: SETTLED where the atlas lies, which wins if it is there. Raises AtlasError if it is damaged.
    """
    if dtype != "auto":
        return dtype
    if kept is None or not kept.is_file():
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    with_remedy = f"{kept}: damaged; write the dtype that this atlas was begun with as base_model.dtype"
    try:
        found = read_json(kept)["dtype"]
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise AtlasError(with_remedy) from error
    if found not in DTYPES:
        raise AtlasError(with_remedy)
    return found


def keep(dtype: str, kept: Path) -> None:
    """Write what `auto` stands for in this atlas: nodes of a cluster, and the machine it is copied to, may be others."""
    if not kept.is_file():
        write_json(kept, {"dtype": dtype})
