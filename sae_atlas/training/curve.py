"""The training curve: one row per log interval, a Parquet file per window."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae_atlas.io.tables import table_of, write_table
from sae_atlas.kernels.measured import Measured, floats

MOST_ROWS = 100  # at most, per window
MEANS = ("loss", "reconstruction", "sparsity", "l0", "gradient_norm")  # of the steps of an interval


@dataclass
class Curve:
    """Sums of the running interval and the rows so far."""

    every: int  # steps per row
    more: tuple[str, ...] = ()  # names of further means, after MEANS
    rows: list[dict] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    count: int = 0
    fired: Tensor | None = None  # [d_sae] bool, in this interval

    def add(self, measured: Measured, gradient_norm: float, more: tuple[float, ...] = ()) -> None:
        values = (measured.loss, measured.reconstruction, measured.sparsity, measured.l0, gradient_norm, *more)
        self.sums = [total + value for total, value in zip(self.sums or [0.0] * len(values), values, strict=True)]
        self.fired = measured.fired.clone() if self.fired is None else self.fired | measured.fired
        self.count += 1

    @property
    def finite(self) -> bool:
        """Whether every number of the running interval is."""
        return bool(np.isfinite(floats(self.sums)).all())

    @property
    def due(self) -> bool:
        return self.count >= self.every

    def close(self, now: dict) -> None:
        """End the interval with a row: the values of `now` and the interval's means."""
        names = (*MEANS, *self.more)
        means = {name: total / self.count for name, total in zip(names, floats(self.sums), strict=True)}
        self.rows.append({**now, **means, "alive": int(self.fired.sum())})
        self.sums, self.count, self.fired = [], 0, None

    def write(self, path: str | Path) -> None:
        """One column per name."""
        write_table(path, table_of({name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}))

    def to_dict(self) -> dict:
        fired = torch.zeros(0, dtype=torch.bool) if self.fired is None else self.fired.cpu()
        plain = {"every": self.every, "more": [*self.more], "rows": self.rows, "sums": floats(self.sums)}
        return plain | {"count": self.count, "fired": fired}

    @classmethod
    def from_dict(cls, saved: dict, device: torch.device | str = "cpu") -> "Curve":
        return cls(**saved | {"fired": saved["fired"].to(device) if len(saved["fired"]) else None})
