"""Where on disk the SAE lies at which a recipe's training begins. Without pydantic: jobs read it."""

from pathlib import Path

from sae_atlas.config.published import SAE_FILE

FIELD = "{layer}"


def start_file(path: str, layer: int) -> Path:
    """Where on disk the SAE of a layer lies: the file or folder itself, in a release made here the layer's final SAE."""
    filled = Path(path.replace(FIELD, str(layer))).expanduser()
    in_release = filled / SAE_FILE.format(layer=layer, snapshot="final")
    return in_release if in_release.is_file() else filled


def files_in(path: Path) -> list[Path]:
    """The files that an SAE's file or folder consists of, by name; hidden ones aside."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
