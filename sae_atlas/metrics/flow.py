"""Flow of the latents through the layers: how well each is matched in the layer before and in the one after."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae_atlas.log import progress
from sae_atlas.metrics.directions import best_matches
from sae_atlas.saes.checkpoint import load_checkpoint
from sae_atlas.tables import read_table, write_table


def match_layers(
    checkpoints: dict[int, str | Path],
    latents: dict[int, str | Path],
    output: str | Path,
    record: dict,
    expects: dict,
) -> None:
    """Write a table with a row per alive latent of every layer: layer, latent, previous, next, chance.

    checkpoints, latents: layer -> final checkpoint and its per-latent table (metrics.evaluate), in ascending order.
    `previous` and `next` are the largest cosines of its decoder row with one of an alive latent of the neighbouring layer;
    NaN at the ends. `chance`: about what the closest of as many random directions as the layer has latents would give,
    sqrt(2 ln n / d_in). Two decoders are in memory at once. Raises AtlasError for inputs of another run.
    """
    tables, last = [], None
    with torch.inference_mode(), progress(len(checkpoints), "layers", "matching") as bar:
        for layer, path in checkpoints.items():
            alive = _alive(latents[layer], expects[f"layer{layer:02d}"])
            state = load_checkpoint(path, expects[f"sae_layer{layer:02d}"])["model_state"]
            decoder = state["decoder.weight"].T[torch.from_numpy(alive)]
            found = {"previous": _unknown(decoder), "next": _unknown(decoder)}
            chance = math.sqrt(2 * math.log(max(len(alive), 1)) / decoder.shape[1])
            found["chance"] = torch.full((len(alive),), min(chance, 1.0))
            if last is not None:
                tables[-1]["next"], found["previous"] = best_matches(last, decoder)
            tables.append({"layer": torch.full((len(alive),), layer), "latent": torch.from_numpy(alive), **found})
            last = decoder
            bar.update()
    columns = {name: torch.cat([table[name] for table in tables]).numpy() for name in tables[0]}
    write_table(output, pa.table(columns), [record["identity"]])


def _alive(table: str | Path, expected: str) -> np.ndarray:
    return np.flatnonzero(read_table(table, [expected])["density"].to_numpy() > 0)


def _unknown(rows: Tensor) -> Tensor:
    return rows.new_full((len(rows),), float("nan"))
