"""Measure all snapshots of one layer on held-out text, in one job: what they share is computed once."""

import hashlib
import math
from json import dumps as to_json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from torch import Tensor

from sae_atlas.base_models.load import load
from sae_atlas.files import atomic, write_json
from sae_atlas.log import progress
from sae_atlas.metrics import importance, reconstruction, sparsity
from sae_atlas.metrics.bootstrap import interval
from sae_atlas.metrics.held_out import HeldOut, open_held_out, predictions, stream_name, through
from sae_atlas.metrics.loss_recovered import Clean, losses, recovered
from sae_atlas.saes.sae import Sae

# metric -> (unit, function of the sums over contexts)
HEADLINES = {
    "fvu": ("", reconstruction.fvu),
    "fvu_without_outliers": ("", lambda sums: sums["error_inside"] / sums["variance_inside"]),
    "l0": ("latents per token", lambda sums: sums["l0"] / sums["tokens"]),
    "mse": ("squared activation", reconstruction.mse),
    "cosine": ("", reconstruction.cosine),
    "norm_ratio": ("", reconstruction.norm_ratio),
    "relative_bias": ("", reconstruction.relative_bias),
    "ce_clean": ("nats per token", lambda sums: sums["ce_clean"] / sums["predictions"]),
    "ce_zero": ("nats per token", lambda sums: sums["ce_zero"] / sums["predictions"]),
    "ce_mean": ("nats per token", lambda sums: sums["ce_mean"] / sums["predictions"]),
    "ce_sae": ("nats per token", lambda sums: sums["ce_sae"] / sums["predictions"]),
    "ce_increase": ("nats per token", lambda sums: (sums["ce_sae"] - sums["ce_clean"]) / sums["predictions"]),
    "ce_recovered": ("", lambda sums: recovered(sums["ce_zero"], sums["ce_sae"], sums["ce_clean"])),
    "ce_recovered_mean_ablation": ("", lambda sums: recovered(sums["ce_mean"], sums["ce_sae"], sums["ce_clean"])),
    "kl": ("nats per token", lambda sums: sums["kl_sae"] / sums["predictions"]),
    "kl_recovered": ("", lambda sums: recovered(sums["kl_zero"], sums["kl_sae"], 0.0)),
}
LOSSES = {"ce_clean", "ce_zero", "ce_mean", "ce_sae", "ce_increase", "ce_recovered", "kl", "kl_recovered"} | {
    "ce_recovered_mean_ablation"
}
COLUMNS = ("recipe", "layer", "snapshot", "tokens", "metric", "value", "low", "high", "unit", "held_out_tokens")


def evaluate(
    held_out: str | Path,
    provenance: str | Path,
    checkpoints: dict[str, str | Path],
    table: str | Path,
    json: str | Path,
    recipe: str,
    layer: int,
    contexts_per_batch: int,
    outlier_norm: float,
    record: dict,
    expects: dict,
) -> None:
    """Write the metrics of `checkpoints` (snapshot name -> file) of one layer as a tidy table and as JSON.

    Reconstruction and sparsity over all unmasked held-out tokens; losses over predictions at unmasked positions of the
    first `patched` contexts, with the SAE's reconstruction at every unmasked position. Intervals: bootstrap over contexts.
    """
    source = open_held_out(held_out, expects["held_out"])
    saes = {snapshot: Sae.load(path, expects[snapshot]) for snapshot, path in checkpoints.items()}
    layer_data = _LayerData(source, f"layer{layer:02d}", outlier_norm)
    sums = {snapshot: _Sums(layer_data, sae) for snapshot, sae in saes.items()}
    model, _ = load(provenance, source.model_dtype, expects["base_model"])
    contexts = len(layer_data.mask)
    with torch.inference_mode(), progress(contexts, "contexts", layer_data.name) as bar:
        for first in range(0, contexts, contexts_per_batch):
            batch = slice(first, min(first + contexts_per_batch, contexts))
            layer_data.read(batch)
            clean = layer_data.predictions(model, batch) if first < layer_data.patched else None
            for snapshot, sae in saes.items():
                x_hat = sums[snapshot].add(sae, batch)
                if clean is not None:
                    sums[snapshot].add_losses(model, layer, clean, x_hat, batch)
            bar.update(batch.stop - batch.start)
    rows = [
        {"recipe": recipe, "layer": layer, "snapshot": snapshot, "tokens": saes[snapshot].config["tokens"], **row}
        for snapshot in saes
        for row in sums[snapshot].rows()
    ]
    measured = {snapshot: _about(saes[snapshot], checkpoints[snapshot]) for snapshot in saes}
    _write(table, json, rows, measured, record)


class _LayerData:
    """Held-out data of one layer: what all snapshots are measured against."""

    def __init__(self, source: HeldOut, name: str, outlier_norm: float):
        self.name, self.site = name, source.attrs["site"]
        self.patched: int = source.attrs["patched"]
        self.mask = torch.from_numpy(source.rows("mask")[:])
        self.tokens = torch.from_numpy(source.rows("tokens")[:])
        self.x = torch.from_numpy(source.rows(f"{name}/site")[:])
        self.final, self.stream = source.rows("final"), source.rows(f"{name}/{stream_name(self.site)}")
        norms = self.x.norm(dim=-1)
        self.inside = self.mask & (norms <= outlier_norm * norms[self.mask].median())  # not an outlier
        self.mean = torch.from_numpy(source.rows(f"{name}/mean")[:]).double()
        self.mean_inside = self.x[self.inside].double().mean(dim=0)
        self.predicted = self.mask[: self.patched, :-1]
        self.shared = {"predictions": self.predicted.sum(dim=1).double().numpy()}
        for loss in ("ce_zero", "ce_mean", "kl_zero"):
            self.shared[loss] = self.per_context(source.rows(f"{name}/{loss}")[:])
        self.shared["ce_clean"] = self.per_context(source.rows("ce_clean")[:])

    def per_context(self, losses: np.ndarray) -> np.ndarray:
        """Sum of [patched, context - 1] losses over the predictions that count, [patched]."""
        return np.where(self.predicted.numpy(), losses, 0).sum(axis=1, dtype=np.float64)

    def read(self, batch: slice) -> None:
        self.batch_x, self.batch_mask = self.x[batch], self.mask[batch]

    def predictions(self, model, batch: slice) -> Clean:
        stop = min(batch.stop, self.patched)
        final = torch.from_numpy(self.final[batch.start : stop]).to(model.device, model.dtype)
        return predictions(model, final, self.tokens[batch.start : stop].to(model.device))


class _Sums:
    """What one SAE adds up to, per context."""

    def __init__(self, data: _LayerData, sae: Sae):
        self.data = data
        names = (*reconstruction.SUMS, "tokens_inside", "error_inside", "variance_inside", "l0")
        self.sums = {name: np.zeros(len(data.mask)) for name in names}
        self.losses = {name: np.zeros(data.patched) for name in ("ce_sae", "kl_sae")}
        self.counts = torch.zeros(sae.d_sae, dtype=torch.int64)
        self.energy = torch.zeros(sae.d_sae, dtype=torch.float64)
        self.decoder_norms = sae.W_dec.norm(dim=1)
        self.l0 = []

    def add(self, sae: Sae, batch: slice) -> Tensor:
        """Measure a batch of contexts; returns the reconstruction [contexts, context, d_in], masked positions as read."""
        data = self.data
        x, mask = data.batch_x, data.batch_mask
        latents = sae.encode(x[mask])
        x_hat = sae.decode(latents)
        active = sparsity.l0(latents)
        self.counts += sparsity.firing_counts(latents)
        self.energy += importance.energy(latents, self.decoder_norms)
        self.l0.append(active)
        terms = reconstruction.token_sums(x[mask], x_hat, data.mean)
        inside = data.inside[batch][mask].double()
        terms |= {"l0": active.double(), "tokens_inside": inside, "error_inside": terms["error"] * inside}
        terms["variance_inside"] = ((x[mask].double() - data.mean_inside) ** 2).sum(dim=1) * inside
        context = torch.arange(batch.start, batch.stop).repeat_interleave(mask.sum(dim=1)).numpy()
        for name, each in terms.items():
            np.add.at(self.sums[name], context, each.numpy())
        replaced = x.clone()
        replaced[mask] = x_hat
        return replaced

    def add_losses(self, model, layer: int, clean: Clean, replaced: Tensor, batch: slice) -> None:
        data = self.data
        rows = slice(batch.start, min(batch.stop, data.patched))
        tokens = data.tokens[rows].to(model.device)
        stream = torch.from_numpy(data.stream[rows]).to(model.device, model.dtype)
        replaced = replaced[: rows.stop - rows.start].to(model.device, model.dtype)
        with through(model, data.site, layer, stream, replaced):
            logits = model(tokens, use_cache=False).logits
        kept = data.predicted[rows]
        for name, each in zip(("ce_sae", "kl_sae"), losses(logits, tokens, clean), strict=True):
            self.losses[name][rows] = torch.where(kept, each.cpu(), 0).sum(dim=1, dtype=torch.float64).numpy()

    def rows(self) -> list[dict]:
        losses = {**self.data.shared, **self.losses}
        tokens, predictions = int(self.sums["tokens"].sum()), int(losses["predictions"].sum())
        inside = int(self.sums["tokens_inside"].sum())
        found = []
        for metric, (unit, of) in HEADLINES.items():
            sums = losses if metric in LOSSES else self.sums
            low, high = interval(sums, of)
            value = float(of({name: each.sum() for name, each in sums.items()}))
            window = predictions if metric in LOSSES else inside if metric == "fvu_without_outliers" else tokens
            found.append(
                {"metric": metric, "value": value, "low": low, "high": high, "unit": unit, "held_out_tokens": window}
            )
        l0, dead = torch.cat(self.l0), sparsity.dead(self.counts)
        alive, spectrum = len(self.counts) - dead, importance.spectrum(self.energy / tokens)
        alpha = importance.alpha(float(l0.double().mean()), alive)
        plain = {
            "l0_median": (sparsity.median(l0), "latents per token"),
            "l0_std": (float(l0.double().std()), "latents per token"),
            "dead": (dead, "latents"),
            "alive": (alive, "latents"),
            "dead_share": (dead / len(self.counts), ""),
            "importance": (float(spectrum.sum()), "squared activation"),
            "participation_ratio": (importance.participation_ratio(spectrum), "latents"),
            "rank_99": (importance.rank(spectrum, 0.99), "latents"),
            "alpha": (alpha, ""),
            "g": (importance.capacity(alpha), "latents per dimension"),
            "d_star": (alive / importance.capacity(alpha), "dimensions"),
        }
        nan = float("nan")
        return found + [
            {"metric": metric, "value": float(value), "low": nan, "high": nan, "unit": unit, "held_out_tokens": tokens}
            for metric, (value, unit) in plain.items()
        ]


def _about(sae: Sae, path: str | Path) -> dict:
    """What a card says of a checkpoint, so that it need not be loaded again: its plain values and its hash."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    normaliser = {"scale": sae.config["normaliser"]["scale"]}
    return {"sha256": sha256, "config": {**sae.config, "normaliser": normaliser}, "stats": sae.stats}


def _write(table: str | Path, json: str | Path, rows: list[dict], measured: dict, record: dict) -> None:
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    with atomic(table) as partial:
        identities = {"identities": to_json([record["identity"]])}
        parquet.write_table(pa.table(columns).replace_schema_metadata(identities), partial)
    metrics = [{key: _json(value) for key, value in row.items()} for row in rows]
    write_json(json, {"metrics": metrics, "checkpoints": measured, "record": record})


def _json(value: object) -> object:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
