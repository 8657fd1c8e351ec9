"""How latents formed: the best match of each in the earlier snapshots of its layer and in the neighbouring layers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from sae_atlas.io.tables import write_table
from sae_atlas.metrics.directions import partners
from sae_atlas.saes.checkpoint import load_checkpoint

MATCH_COLUMNS = {
    "latent": pa.int32(),
    "axis": pa.string(),
    "place": pa.string(),
    "match": pa.int32(),
    "cosine": pa.float32(),
}
NO_MATCHES = pa.schema(list(MATCH_COLUMNS.items())).empty_table()  # of an SAE without earlier snapshots and neighbours


def evolution(
    checkpoint: str | Path,
    table: str | Path,
    snapshots: Sequence[str],
    layers: Sequence[int],
    earlier: Sequence[str | Path] = (),
    neighbours: Sequence[str | Path] = (),
) -> None:
    """Write a row per latent of `checkpoint` and other checkpoint: latent, axis, place, match, cosine.

    earlier: checkpoints of the same layer at `snapshots` (`40k`); neighbours: final checkpoints of `layers`. axis is
    `snapshot` or `layer`, and place says which one. match is the latent of the other checkpoint, alive or not, whose decoder
    row has the largest `cosine` with this latent's (about sqrt(2 ln n / d_in) is chance).
    """
    rows = _decoder(checkpoint)
    references = [("snapshot", name, path) for name, path in zip(snapshots, earlier, strict=True)]
    references += [("layer", str(layer), path) for layer, path in zip(layers, neighbours, strict=True)]
    parts = [NO_MATCHES]
    with torch.inference_mode():
        for axis, label, path in references:
            cosine, match = partners(rows, _decoder(path))
            part = {
                "latent": np.arange(len(rows), dtype=np.int32),
                "axis": [axis] * len(rows),
                "place": [label] * len(rows),
            }
            parts.append(pa.table({**part, "match": match.int().numpy(), "cosine": cosine.numpy()}))
    write_table(table, pa.concat_tables(parts))


def _decoder(path: str | Path) -> Tensor:
    return load_checkpoint(path)["model_state"]["decoder.weight"].T.contiguous()
