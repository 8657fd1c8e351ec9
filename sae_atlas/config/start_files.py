"""Where on disk the SAE lies at which a recipe's training begins. Without pydantic: jobs read it."""

from itertools import chain
from pathlib import Path

from sae_atlas.config.published import BESIDE, FILES, PAIRS, SAE_FILE

FIELD = "{layer}"


def start_file(path: str, layer: int) -> Path:
    """Where on disk the SAE of a layer lies: the file or folder itself, in a release made here the layer's final SAE."""
    filled = Path(path.replace(FIELD, str(layer))).expanduser()
    in_release = filled / SAE_FILE.format(layer=layer, snapshot="final")
    return in_release if in_release.is_file() else filled


def files_of_start(path: Path) -> list[Path]:
    """The files that an SAE is read from, those that are there: of a folder those of the formats; a file, and the small one
    beside it where its format has one."""
    if path.is_dir():
        names = {"model.pt", *chain.from_iterable(PAIRS.values())}
        return sorted(path / name for name in names if (path / name).is_file())
    ends = {kind: FILES[kind].partition("}")[2] for kind in BESIDE}
    beside = [path.with_name(BESIDE[kind]) for kind, end in ends.items() if path.name.endswith(end)]
    return [file for file in (path, *beside) if file.is_file()]
