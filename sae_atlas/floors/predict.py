"""Predicted floors of one recipe: every layer, student width and formula, with intervals."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from sae_atlas.floors.formula import CORRECTIONS, FORMULAS, distance, n_retained, tail_sums
from sae_atlas.io.tables import read_table, write_table
from sae_atlas.metrics.bootstrap import confidence_interval, resamples
from sae_atlas.metrics.importance import alpha, capacity


def predict_floors(
    blocks: Sequence[str | Path],
    layers: Sequence[int],
    table: str | Path,
    recipe: str,
    widths: Sequence[int],
) -> None:
    """Write the floors (`layer_floors`) of `layers`, each with a table of its blocks of contexts (metrics.sums)."""
    rows = []
    for layer, path in zip(layers, blocks, strict=True):
        sums = read_table(path)
        energy = np.stack(sums["energy"]).astype(np.float64)
        of_layer = layer_floors(energy, sums["active"].to_numpy(), sums["tokens"].to_numpy(), widths)
        rows += [{"recipe": recipe, "layer": layer, **row} for row in of_layer]
    write_table(table, pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False))


def layer_floors(energy: np.ndarray, active: np.ndarray, tokens: np.ndarray, widths: Sequence[int]) -> list[dict]:
    """A row per width and formula. energy [blocks, d_sae], active, tokens [blocks]: metrics.sums.Sums.per_block.

    floor, low, high: L* in squared activation and its 95 % interval, bootstrapped over the blocks of held-out contexts (two
    or more, else NaN). Resampled are the importances and L0, hence alpha, g and F_S; which latents are alive and how they
    rank is the whole sample's, for a resample sees fewer texts, and so fewer latents, than there are.
    share: of the layer's total importance that lies in the tail which forms the floor. nearer: the correction whose shape
    the spectrum is nearer to (formula.distance), repeated on every row.
    """
    whole = energy.sum(axis=0)
    order = np.argsort(-whole, kind="stable")[: int((whole > 0).sum())]
    tails = tail_sums(energy[:, order])  # [blocks, alive + 1]
    weights = resamples(len(tokens)) if len(tokens) > 1 else np.empty((0, len(tokens)))
    alive, spectrum = len(order), whole[order] / tokens.sum()
    sparsity = alpha(active.sum() / tokens.sum(), alive)
    g = capacity(sparsity)
    drawn = [capacity(alpha(l0, alive)) for l0 in weights @ active / (weights @ tokens)]
    distances = {shape: distance(spectrum, shape) for shape in CORRECTIONS}
    about = {
        "total": spectrum.sum(),
        "alive": alive,
        "alpha": sparsity,
        "g": g,
        "d_star": alive / g,
        **{f"distance_{shape}": value for shape, value in distances.items()},
        "nearer": min(distances, key=distances.get),
        "blocks": len(tokens),
        "held_out_tokens": int(tokens.sum()),
    }
    rows = []
    for width in widths:
        for formula in FORMULAS:
            count = n_retained(width, g, alive, formula)
            floor = tails[:, count].sum() / tokens.sum()
            counts = [n_retained(width, each, alive, formula) for each in drawn]
            floors = (weights * tails[:, counts].T).sum(axis=1) / (weights @ tokens)
            low, high = confidence_interval(floors) if len(floors) else (np.nan, np.nan)
            interval = {"floor": floor, "low": low, "high": high, "share": floor / spectrum.sum() if alive else np.nan}
            rows.append({"width": width, "formula": formula, "kept": count, **interval, **about})
    return rows
