"""Where the rows of synthetic worlds and their truth lie in the folder of the base model."""

from pathlib import Path

ROWS, TRUTH = "rows", "truth.zarr"


def rows_path(folder: str | Path) -> str:
    """Where the rows lie, as `base_model.path` says it of activations of the user's own."""
    return f"{Path(folder) / ROWS}/layer{{layer}}.npy"
