"""Which latents of one base model are there in another made from it: same directions, same activations on the same text."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import progress
from sae_atlas.io.tables import read_table, write_table
from sae_atlas.metrics.directions import partners
from sae_atlas.metrics.held_out import HeldOut, open_held_out
from sae_atlas.saes.sae import Sae

CONTEXTS_AT_ONCE = 16  # contexts whose latents are in memory at once


def compare_latents(
    before_checkpoints: Sequence[str | Path],
    before_latents: Sequence[str | Path],
    before_held_out: Sequence[str | Path],
    after_checkpoints: Sequence[str | Path],
    after_latents: Sequence[str | Path],
    after_held_out: Sequence[str | Path],
    layers: Sequence[int],
    table: str | Path,
) -> None:
    """Write a row per latent alive in the atlas `before`, of all layers: layer, latent, match, partner, chance, change, ...

    Of both atlases and every one of `layers`: its final checkpoint, the table of its latents and its held-out data. match:
    largest cosine of its decoder row with one of an alive latent (`partner`) of the SAE after; chance: about what as many
    random directions would give, sqrt(2 ln n / d_in). change: of this very latent when its SAE reads the model after instead
    of the one before, sum |f' - f| / sum (f' + f) over the held-out tokens: 0 if nothing changes, 1 if it never fires on a
    token on which it fired. density_before, density_after: shares of tokens on which it fires.

    Raises AtlasError if the two atlases do not hold out the same tokens.
    """
    checkpoints = {"before": before_checkpoints, "after": after_checkpoints}
    latents = {"before": before_latents, "after": after_latents}
    folders = {"before": before_held_out, "after": after_held_out}
    held_out = {side: open_held_out(Path(each[0]).parent) for side, each in folders.items()}
    mask = _same_tokens(held_out["before"], held_out["after"])
    tables = []
    with torch.inference_mode(), progress(len(layers), "layers", "comparing") as bar:
        for number, layer in enumerate(layers):
            saes, alive = {}, {}
            for side in checkpoints:
                saes[side] = Sae.load(checkpoints[side][number])
                density = read_table(latents[side][number])["density"].to_numpy()
                alive[side] = np.flatnonzero(density > 0)
            rows, others = (saes[side].W_dec[torch.from_numpy(alive[side])] for side in checkpoints)
            if not len(others):
                raise AtlasError(f"{after_checkpoints[number]}: no latent is alive; train it longer")
            match, partner = partners(rows, others)
            chance = math.sqrt(2 * math.log(len(others)) / rows.shape[1])
            columns = {"layer": layer, "latent": alive["before"], "match": match.numpy()}
            columns |= {"partner": alive["after"][partner.numpy()], "chance": min(chance, 1.0)}
            changes = _changes(saes["before"], held_out, layer, mask)
            tables.append(pd.DataFrame(columns | {name: values[alive["before"]] for name, values in changes.items()}))
            bar.update()
    write_table(table, pa.Table.from_pandas(pd.concat(tables), preserve_index=False))


def _same_tokens(before: HeldOut, after: HeldOut) -> np.ndarray:
    """The mask that both share."""
    arrays = [[each.rows(name)[:] for name in ("tokens", "mask")] for each in (before, after)]
    if not all(np.array_equal(one, other) for one, other in zip(*arrays, strict=True)):
        raise AtlasError(f"{after.path}: holds out other tokens than {before.path}; compare atlases of one corpus")
    return arrays[0][1]


def _changes(sae: Sae, held_out: dict[str, HeldOut], layer: int, mask: np.ndarray) -> dict[str, np.ndarray]:
    """change, density_before, density_after of every latent, [d_sae], over unmasked tokens."""
    differs, total = (torch.zeros(sae.d_sae, dtype=torch.float64) for _ in range(2))
    fires = {side: torch.zeros(sae.d_sae, dtype=torch.float64) for side in held_out}
    for first in range(0, len(mask), CONTEXTS_AT_ONCE):
        batch = slice(first, first + CONTEXTS_AT_ONCE)
        chosen = torch.from_numpy(mask[batch])
        read = {
            side: torch.from_numpy(each.rows(f"layer{layer:02d}/site")[batch])[chosen]
            for side, each in held_out.items()
        }
        latents = {side: sae.encode(x) for side, x in read.items()}
        differs += (latents["after"] - latents["before"]).abs().sum(dim=0, dtype=torch.float64)
        total += (latents["after"] + latents["before"]).sum(dim=0, dtype=torch.float64)
        for side, each in latents.items():
            fires[side] += (each > 0).sum(dim=0)
    densities = {f"density_{side}": (count / mask.sum()).numpy() for side, count in fires.items()}
    return {"change": (differs / total).numpy(), **densities}
