"""Measure all snapshots of one layer on held-out text, in one job: what they share is computed once."""

from collections.abc import Sequence
from pathlib import Path

import torch

from sae_atlas.base_models.load import load
from sae_atlas.io.devices import resolve
from sae_atlas.io.files import sha256, write_json
from sae_atlas.io.log import progress
from sae_atlas.io.provenance import current_record
from sae_atlas.io.tables import finite_or_none, table_of, write_rows, write_table
from sae_atlas.metrics.held_out import open_held_out
from sae_atlas.metrics.layer_data import LayerData
from sae_atlas.metrics.sums import Sums
from sae_atlas.saes.sae import Sae

METRIC_COLUMNS = ("recipe", "layer", "snapshot", "tokens", "metric", "value", "low", "high", "unit", "held_out_tokens")


def evaluate(
    held_out: str | Path,
    base_model: str | Path,
    checkpoints: Sequence[str | Path],
    snapshots: Sequence[str],
    table: str | Path,
    latents: str | Path,
    blocks: str | Path,
    json: str | Path,
    recipe: str,
    layer: int,
    contexts_per_batch: int,
    outlier_norm: float,
    device: str = "auto",
) -> None:
    """Write the metrics of the `checkpoints` of one layer, which are its `snapshots`, as a tidy table and as JSON.

    held_out: the folder of the layer's held-out data (metrics.held_out); base_model: its provenance.

    Reconstruction and sparsity over all unmasked held-out tokens; losses over predictions at unmasked positions of the
    first `patched` contexts, with the SAE's reconstruction at every unmasked position; of saved activations there are none.
    Intervals: bootstrap over contexts.
    latents: table of the last snapshot with a row per latent (metrics.sums.Sums.per_latent); blocks: with a row per
    block of contexts (Sums.per_block).
    """
    source = open_held_out(Path(held_out).parent)
    data = LayerData(source, f"layer{layer:02d}", outlier_norm)
    model = load(base_model, source.model_dtype, device)[0] if data.patched else None
    files = dict(zip(snapshots, checkpoints, strict=True))
    target_device = model.device if model else resolve(device)
    saes = {snapshot: Sae.load(path).to(target_device) for snapshot, path in files.items()}
    sums = add_up(data, model, layer, saes, contexts_per_batch)
    for sae in saes.values():
        sae.to("cpu")  # what is left to do is small
    final = list(sums.values())[-1]
    rows = [
        {"recipe": recipe, "layer": layer, "snapshot": snapshot, "tokens": saes[snapshot].config["tokens"], **row}
        for snapshot in saes
        for row in sums[snapshot].rows(final)
    ]
    write_rows(table, rows, METRIC_COLUMNS)
    write_table(latents, table_of(final.per_latent()))
    write_table(blocks, table_of(final.per_block()))
    measured = {snapshot: _about(saes[snapshot], files[snapshot]) for snapshot in saes}
    metrics = [{key: finite_or_none(value) for key, value in row.items()} for row in rows]
    write_json(json, {"metrics": metrics, "checkpoints": measured, "record": current_record()})


def add_up(data: LayerData, model, layer: int, saes: dict[str, Sae], contexts_per_batch: int) -> dict[str, Sums]:
    """What each of the SAEs adds up to on all held-out contexts of a layer. model: None where no context has losses."""
    sums = {name: Sums(data, sae) for name, sae in saes.items()}
    contexts = len(data.mask)
    with torch.inference_mode(), progress(contexts, "contexts", data.name) as bar:
        for first in range(0, contexts, contexts_per_batch):
            batch = slice(first, min(first + contexts_per_batch, contexts))
            pair, clean = data.pair(batch), data.predictions(model, batch) if first < data.patched else None
            for each in sums.values():
                replaced = each.add(batch, *pair)
                if clean is not None:
                    each.add_losses(model, layer, clean, replaced, batch)
            bar.update(batch.stop - batch.start)
    return sums


def _about(sae: Sae, path: str | Path) -> dict:
    """What a card says of a checkpoint, so that it need not be loaded again: its plain values and its hash."""
    normaliser = {"scale": sae.config["normaliser"]["scale"]}
    return {"sha256": sha256(path), "config": {**sae.config, "normaliser": normaliser}, "stats": sae.stats}
