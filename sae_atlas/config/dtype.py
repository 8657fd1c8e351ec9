"""`base_model.dtype`: what `auto` stands for. It is settled before identities are made, once for an atlas."""

import json
from pathlib import Path

from sae_atlas.io.devices import multiplies_bfloat16
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, write_json
from sae_atlas.io.provenance import read_record

DTYPES = ("float32", "bfloat16", "float16")
SETTLED = "results/dtype.json"  # of an atlas that was begun with `auto`
HELD_OUT = "held_out.zarr/zarr.json"  # beside it, of every atlas that has got so far


def settled(dtype: str, device: str, file: Path | None) -> str:
    """The dtype itself. device: where the passes run (training.device); file: SETTLED where the atlas lies, if anywhere.

    What the atlas there was begun with wins over what this machine would choose.
    """
    if dtype != "auto":
        return dtype
    begun = begun_in(file) if file else None
    return begun or ("bfloat16" if multiplies_bfloat16(device) else "float32")


def begun_in(file: Path) -> str | None:
    """The dtype of the atlas that lies around `file`; None if it has not got so far. Raises AtlasError if that is damaged."""
    return _read(file) or read_record(file.parent / HELD_OUT).get("settings", {}).get("model_dtype")


def keep(dtype: str, file: Path) -> None:
    """Write what `auto` stands for, because nodes of a cluster, or a machine that the atlas is copied to, may differ.

    Raises AtlasError if another dtype was kept since the config was read.
    """
    current = _read(file)
    if current is None:
        write_json(file, {"model_dtype": dtype})
    elif current != dtype:
        raise AtlasError(f"{file}: another run has just begun this atlas in another dtype; run again")


def _read(file: Path) -> str | None:
    if not file.is_file():
        return None
    try:
        dtype = read_json(file)["model_dtype"]
        if dtype in DTYPES:
            return dtype
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        pass
    raise AtlasError(f"{file}: damaged; write the dtype that this atlas was begun with as base_model.dtype")
