"""Which layers there are saved activations of, and where each lies (config section `base_model`, source `activations`).

The path holds `{layer}`, and there is a file per layer; or it is one file or Zarr group that holds an array per layer, whose
name has the layer's number in it. An array alone is layer 0.
"""

import re
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from sae_atlas.io.errors import AtlasError, listed, reason

SITE = "activations"  # what the site of saved activations is called
KEY = "base_model.path"
FIELD = "{layer}"
BYTES_AT_ONCE = 2**28  # of rows in memory: formats with chunks are read through once for each such part
KINDS = (".npy", ".safetensors", ".parquet")
OF_ZARR = ("zarr.json", ".zarray", ".zgroup")  # one of them is in the folder of an array or group


@dataclass(frozen=True)
class Location:
    """A file, or the folder of a Zarr array or group, and the name of the array in it; None for the file's own."""

    file: Path
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.file}" if self.name is None else f"{self.file}, {self.name}"


def find_layers(path: str) -> dict[int, Location]:
    """Layer -> where its array lies, in ascending order. Nothing but names is read. Raises AtlasError if there is none."""
    locations = _file_per_layer(path) if FIELD in path else _arrays_of(Path(path).expanduser())
    return dict(sorted(locations.items()))


def files_of(location: Location) -> dict[str, Path]:
    """The files that hold an array, by name: one, or those of a Zarr array."""
    if location.file.is_file():
        return {location.file.name: location.file}
    folder = location.file / (location.name or "")
    return {each.relative_to(folder).as_posix(): each for each in sorted(folder.rglob("*")) if each.is_file()}


def paths_matching(path: str) -> list[tuple[int, Path]]:
    """(number, path) of what lies where `{layer}` in `path` stands for a number, which may begin with zeros."""
    whole = Path(path).expanduser()
    parts = whole.parts
    first = next(index for index, part in enumerate(parts) if FIELD in part)
    number, again = "(?P<layer>[0-9]{1,4})", "(?P=layer)"
    pattern = re.escape(str(whole)).replace(re.escape(FIELD), number, 1).replace(re.escape(FIELD), again)
    below = "/".join(escape(part).replace(FIELD, "*") for part in parts[first:])
    matches = ((re.fullmatch(pattern, str(each)), each) for each in sorted(Path(*parts[:first]).glob(below)))
    return [(int(match["layer"]), each) for match, each in matches if match]


def _file_per_layer(path: str) -> dict[int, Location]:
    locations: dict[int, Location] = {}
    for layer, file in paths_matching(path):
        if layer in locations:
            raise AtlasError(f"{KEY}: {locations[layer]} and {file} are both of layer {layer}; keep one of them")
        _check_kind(file)
        locations[layer] = Location(file)
    if not locations:
        raise AtlasError(
            f"{KEY}: nothing lies at {path}; save an array per layer there, its number in place of {FIELD}"
        )
    return locations


def _arrays_of(file: Path) -> dict[int, Location]:
    """The arrays of one file or Zarr group."""
    if not file.exists():
        raise AtlasError(f"{KEY}: {file} is not there; give a file or Zarr group, or a path with {FIELD} in it")
    _check_kind(file)
    try:
        names = {".npy": _own, ".safetensors": _of_safetensors, ".parquet": list_columns}.get(file.suffix, _of_zarr)(
            file
        )
    except Exception as error:  # damaged files show as errors of many libraries
        raise AtlasError(f"{KEY}: {file} cannot be read ({reason(error)}); save it again") from error
    if len(names) == 1 and not re.search("[0-9]", names[0] or ""):
        return {0: Location(file, names[0])}
    locations: dict[int, Location] = {}
    for name in names:
        numbers = re.findall("[0-9]+", name)
        if len(numbers) > 1:
            raise AtlasError(
                f"{KEY}: {file}: {name!r} holds {len(numbers)} numbers; name arrays by layer, as `layer03`"
            )
        if numbers and int(numbers[0]) in locations:
            raise AtlasError(f"{KEY}: {file}: two arrays of layer {int(numbers[0])}; keep one of them")
        if numbers:
            locations[int(numbers[0])] = Location(file, name)
    if not locations:
        raise AtlasError(f"{KEY}: {file} holds no array with a layer's number in its name; name them as `layer03`")
    return locations


def _check_kind(file: Path) -> None:
    is_zarr = file.is_dir() and any((file / name).is_file() for name in OF_ZARR)
    if not is_zarr and not (file.is_file() and file.suffix in KINDS):
        raise AtlasError(f"{KEY}: {file} is none of {listed(KINDS)}, and no Zarr array or group")


def _own(file: Path) -> list[str | None]:
    return [None]


def _of_safetensors(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as opened:
        return list(opened.keys())


def list_columns(file: Path) -> list[str]:
    """Columns of lists: one list is a row of the array."""
    import pyarrow.parquet as parquet
    import pyarrow.types as types

    is_list = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return [field.name for field in parquet.read_schema(file) if any(kind(field.type) for kind in is_list)]


def _of_zarr(folder: Path) -> list[str | None]:
    import zarr

    opened = zarr.open(folder, mode="r")
    return [None] if isinstance(opened, zarr.Array) else sorted(opened.array_keys())
