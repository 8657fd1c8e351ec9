"""Flow of the latents through the layers: how well each is matched in the layer before and in the one after."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae_atlas.io.log import progress
from sae_atlas.io.tables import read_table, write_table
from sae_atlas.metrics.directions import best_matches
from sae_atlas.saes.checkpoint import load_checkpoint


def match_layers(
    checkpoints: Sequence[str | Path],
    latents: Sequence[str | Path],
    layers: Sequence[int],
    table: str | Path,
) -> None:
    """Write a table with a row per alive latent of every layer: layer, latent, previous, next, chance.

    checkpoints, latents: of `layers`, in ascending order, the final checkpoint and its per-latent table (metrics.evaluate).
    `previous` and `next` are the largest cosines of its decoder row with one of an alive latent of the neighbouring layer;
    NaN at the ends, and where the neighbour has no alive latent. A layer without one has a row of latent -1 and NaN.
    `chance`: about what the closest of as many random directions as the layer has latents would give, sqrt(2 ln n / d_in).
    Two decoders are in memory at once.
    """
    tables, last = [], None
    with torch.inference_mode(), progress(len(checkpoints), "layers", "matching") as bar:
        for layer, path, of_latents in zip(layers, checkpoints, latents, strict=True):
            alive = np.flatnonzero(read_table(of_latents)["density"].to_numpy() > 0)
            state = load_checkpoint(path)["model_state"]
            decoder = state["decoder.weight"].T[torch.from_numpy(alive)]
            cosines = {"previous": _unknown(decoder), "next": _unknown(decoder)}
            chance = math.sqrt(2 * math.log(max(len(alive), 1)) / decoder.shape[1])
            cosines["chance"] = torch.full((len(alive),), min(chance, 1.0))
            if last is not None:
                tables[-1]["next"], cosines["previous"] = best_matches(last, decoder)
            tables.append({"layer": torch.full((len(alive),), layer), "latent": torch.from_numpy(alive), **cosines})
            last = decoder
            bar.update()
    dead = torch.tensor([layer for layer, part in zip(layers, tables, strict=True) if not len(part["latent"])])
    if len(dead):
        unknown = {name: _unknown(dead.float()) for name in ("previous", "next", "chance")}
        tables.append({"layer": dead, "latent": torch.full_like(dead, -1), **unknown})
    columns = {name: torch.cat([part[name] for part in tables]).numpy() for name in tables[0]}
    write_table(table, pa.table(columns))


def _unknown(rows: Tensor) -> Tensor:
    return rows.new_full((len(rows),), float("nan"))
