"""What the model loses when transcoders take the place of many layers at once, as in a graph of latents through all of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae_atlas.base_models.load import load
from sae_atlas.io.log import progress
from sae_atlas.io.tables import write_rows
from sae_atlas.metrics.bootstrap import confidence_interval, resampled
from sae_atlas.metrics.held_out import open_held_out
from sae_atlas.metrics.labels import OF_PREDICTIONS
from sae_atlas.metrics.layer_data import Contexts
from sae_atlas.metrics.losses import losses, scored
from sae_atlas.saes.sae import Sae
from sae_atlas.sites.hooks import patch, transcode
from sae_atlas.sites.trace import forward_pass

POINTS = 8  # numbers of layers that are measured, at most
SHOWN = ("ce_sae", "ce_zero", "ce_increase", "ce_recovered", "kl")


def replace_layers(
    held_out: str | Path,
    base_model: str | Path,
    checkpoints: Sequence[str | Path],
    layers: Sequence[int],
    table: str | Path,
    recipe: str,
    contexts_per_batch: int,
    device: str = "auto",
) -> None:
    """Write a table with the losses when the first n of `layers` read their transcoders' outputs, for some n up to all.

    held_out: the folder of held-out data (metrics.held_out); checkpoints: the transcoders of `layers`, in ascending order. A
    transcoder reads what the model that runs through the ones before it gives. Columns: recipe, layers (n), metric, value, low,
    high, unit, held_out_tokens; `ce_zero`: the same layers' targets set to zeros. Masked positions stay as they are.
    Intervals: bootstrap over contexts.
    """
    source = open_held_out(held_out)
    model, _ = load(base_model, source.model_dtype, device)
    saes = [Sae.load(path).to(model.device) for path in checkpoints]
    counts = sorted({int(count) for count in np.linspace(1, len(layers), min(POINTS, len(layers))).round()})
    data = Contexts(source)
    patched = data.patched
    sums = {count: {name: np.zeros(patched) for name in ("ce_sae", "kl_sae", "ce_zero")} for count in counts}
    with torch.inference_mode(), progress(patched * len(counts), "contexts", recipe) as bar:
        for first in range(0, patched, contexts_per_batch):
            batch = slice(first, min(first + contexts_per_batch, patched))
            tokens, mask = data.tokens[batch].to(model.device), data.mask[batch].to(model.device)
            clean = data.predictions(model, batch)
            for count in counts:
                for zero in (False, True):
                    with ExitStack() as stack:
                        for layer, sae in zip(layers[:count], saes[:count], strict=True):
                            stack.enter_context(_replaced(model, source.attrs, layer, None if zero else sae, mask))
                        logits = forward_pass(model, tokens).logits
                    ce, kl = losses(logits, scored(model, tokens), clean)
                    sums[count]["ce_zero" if zero else "ce_sae"][batch] = data.per_context(ce, batch)
                    if not zero:
                        sums[count]["kl_sae"][batch] = data.per_context(kl, batch)
                bar.update(batch.stop - batch.start)
    rows = [row for count in counts for row in _rows(recipe, count, sums[count] | data.shared)]
    write_rows(table, rows, list(rows[0]))


def _replaced(model, attrs: dict, layer: int, sae: Sae | None, mask: Tensor):
    """The context in which the target of a layer is what its transcoder says, or zeros."""
    untouched = ~mask[..., None]
    if sae is None:
        return patch(model, attrs["target"], layer, lambda y: torch.where(untouched, y, 0))

    def through(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(untouched, y, sae(x).to(y))

    return transcode(model, attrs["site"], attrs["target"], layer, through)


def _rows(recipe: str, count: int, sums: dict[str, np.ndarray]):
    drawn, totals = resampled(sums), {name: each.sum() for name, each in sums.items()}
    for metric in SHOWN:
        about = OF_PREDICTIONS[metric]
        low, high = confidence_interval(about.of(drawn))
        yield {
            "recipe": recipe,
            "layers": count,
            "metric": metric,
            "value": float(about.of(totals)),
            "low": low,
            "high": high,
            "unit": about.unit,
            "held_out_tokens": int(totals["predictions"]),
        }
