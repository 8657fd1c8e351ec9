"""Which latents another seed finds, too: the closest decoder row of every sister SAE."""

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

SEED = 0  # of the random directions that say what chance gives


def match_seeds(
    checkpoints: Sequence[str | Path],
    latents: Sequence[str | Path],
    others: Sequence[str | Path],
    names: Sequence[str],
    layers: Sequence[int],
    table: str | Path,
) -> None:
    """Write a table with a row per alive latent, layer and other seed: layer, latent, density, other, cosine, chance.

    checkpoints, latents: of `layers`, the final checkpoint and its per-latent table (metrics.evaluate); others: the final
    checkpoints of the sister recipes `names`, all layers of the first, then of the next. `cosine` is the largest cosine of the
    latent's decoder row with one of the other SAE (after arXiv 2501.16615, which matches one to one); `chance` that of a random
    direction with the second moments of this SAE's decoder rows, for rows of one layer crowd into a few dimensions.
    A latent is alive that fired on the held-out tokens; a layer without one has a row of latent -1 and NaN for each other
    seed. Two decoders are in memory at once.
    """
    columns: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode(), progress(len(others), "pairs of SAEs", "seeds") as bar:
        for index, layer in enumerate(layers):
            density = read_table(latents[index])["density"].to_numpy()
            alive = np.flatnonzero(density > 0)
            rows = _decoder(checkpoints[index])[torch.from_numpy(alive)]
            random = _random_rows(rows, layer) if len(alive) else rows
            for number, name in enumerate(names):
                if len(alive):
                    other = _decoder(others[number * len(layers) + index])
                    pair = {"latent": alive, "density": density[alive]}
                    pair |= {
                        "cosine": best_matches(rows, other)[0].numpy(),
                        "chance": best_matches(random, other)[0].numpy(),
                    }
                else:
                    unknown = dict.fromkeys(("density", "cosine", "chance"), np.full(1, np.nan, np.float32))
                    pair = {"latent": np.array([-1]), **unknown}
                count = len(pair["latent"])
                for key, values in {"layer": np.full(count, layer), "other": np.full(count, name), **pair}.items():
                    columns.setdefault(key, []).append(values)
                bar.update()
    write_table(table, pa.table({key: np.concatenate(values) for key, values in columns.items()}))


def _decoder(checkpoint: str | Path) -> Tensor:
    """Decoder rows [d_sae, d]."""
    return load_checkpoint(checkpoint)["model_state"]["decoder.weight"].T


def _random_rows(rows: Tensor, layer: int) -> Tensor:
    """As many random directions with the second moments of the rows [n, d]: random mixtures of them."""
    generator = torch.Generator().manual_seed(SEED + layer)
    moments = rows.T.double() @ rows.double() / len(rows)
    values, vectors = torch.linalg.eigh(moments)
    noise = torch.randn(len(rows), rows.shape[1], generator=generator, dtype=torch.float64)
    return (noise * values.clamp_min(0).sqrt() @ vectors.T).float()
