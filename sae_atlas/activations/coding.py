"""How a store writes activations: as floats, or as bytes on a grid of each dimension's own."""

from dataclasses import dataclass

import numpy as np

from sae_atlas.io.errors import AtlasError

LEVELS = 127  # of int8 on either side of the middle


@dataclass(frozen=True)
class Grid:
    """The values that int8 can take: middle + step * q. float32 [d_in] each, in the unit of the activations.

    Per dimension, because a few dimensions of a residual stream are 100 times the others.
    """

    middle: np.ndarray
    step: np.ndarray

    @classmethod
    def over(cls, low: np.ndarray, high: np.ndarray) -> "Grid":
        """The finest grid that holds everything between `low` and `high` [d_in], so that nothing overflows."""
        low, high = low.astype(np.float64), high.astype(np.float64)
        step = np.where(high > low, (high - low) / (2 * LEVELS), 1.0)
        return cls(((low + high) / 2).astype(np.float32), step.astype(np.float32))

    def to_dict(self) -> dict:
        return {"middle": self.middle.tolist(), "step": self.step.tolist()}

    @classmethod
    def from_dict(cls, values: dict) -> "Grid":
        return cls(np.array(values["middle"], np.float32), np.array(values["step"], np.float32))


def encode(values: np.ndarray, grid: Grid | None) -> np.ndarray:
    """Values [rows, d_in] as int8 on the grid; without one as they are. Raises AtlasError for a value that does not fit."""
    if grid is None:
        return values
    with np.errstate(invalid="ignore"):  # not a number: refused below
        levels = np.rint((values.astype(np.float32) - grid.middle) / grid.step)
    fits = np.abs(levels) <= LEVELS
    if not fits.all():
        raise AtlasError(
            f"activations: {values[~fits].flat[0]} does not fit a store of int8; set activations.dtype: float32"
        )
    return levels.astype(np.int8)


def decode(stored: np.ndarray, grid: Grid | None) -> np.ndarray:
    """What encode wrote, as float32 [rows, d_in] of its own."""
    import torch  # its conversion takes a fifth of NumPy's time

    values = torch.from_numpy(stored).float()
    if grid is not None:
        values.mul_(torch.from_numpy(grid.step)).add_(torch.from_numpy(grid.middle))
    return values.numpy()
