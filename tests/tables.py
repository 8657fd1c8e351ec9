"""Plausible curves and metric tables of a whole recipe, made without training anything."""

from pathlib import Path

import numpy as np
import pandas as pd

from sae_atlas.sizes import format_size

UNITS = {
    "l0": "latents per token",
    "l0_median": "latents per token",
    "mse": "squared activation",
    "dead": "latents",
    "alive": "latents",
    **dict.fromkeys(("ce_clean", "ce_zero", "ce_mean", "ce_sae", "ce_increase", "kl"), "nats per token"),
}
WITHOUT_INTERVAL = ("dead", "alive", "dead_share", "l0_median")
LOSSES = ("ce_", "kl")


def write_curves(
    folder: Path, layers: int, snapshots: list[int], adaptive: bool, latents: int = 4608, rows: int = 60
) -> dict[int, list[Path]]:
    """Curves as training/curve.py writes them: layer -> one file per window. `adaptive`: L1 steered to an L0 of 48."""
    files = {}
    for layer in range(layers):
        noise = np.random.default_rng(layer)
        files[layer] = []
        for start, stop in zip([0, *snapshots], snapshots, strict=False):
            tokens = np.linspace(start, stop, rows + 1)[1:]
            done = tokens / snapshots[-1]
            early = np.exp(-done * 25)
            error = (0.08 + 0.16 * layer / layers + 0.7 * early + 0.05 * (1 - done)) * noise.normal(1, 0.02, rows)
            wobble = noise.normal(1, 0.03, rows)
            l0 = (40 + 15 * np.sin(layer) * early + 1500 * early**2 + 8) * wobble if adaptive else np.full(rows, 32.0)
            penalty = 0.03 * (1 + layer / 10) * (1 + 2 * (1 - early)) if adaptive else np.zeros(rows)
            sparsity = penalty * l0 * 0.03
            table = pd.DataFrame(
                {
                    "step": np.arange(rows) + 1,
                    "tokens": tokens.round().astype(int),
                    "lambda": penalty,
                    "learning_rate": 2e-3,
                    "dead": 0,
                    "loss": error + sparsity,
                    "reconstruction": error,
                    "sparsity": sparsity,
                    "l0": l0,
                    "gradient_norm": (0.3 + 2 * early) * noise.lognormal(0, 0.15, rows),
                    "alive": (latents * (0.35 + 0.6 * early + 0.2 * done * (layer % 7) / 7) * wobble)
                    .clip(0, latents)
                    .astype(int),
                }
            )
            path = folder / f"layer{layer:02d}_{format_size(stop)}.parquet"
            table.to_parquet(path, index=False)
            files[layer].append(path)
    return files


def metric_rows(recipe: str, layer: int, layers: int, snapshots: list[int], latents: int = 4608) -> list[dict]:
    """Rows of metrics.evaluate.COLUMNS for one layer."""
    noise = np.random.default_rng(layer)
    rows = []
    for place, tokens in enumerate(snapshots):
        left = 0.6 ** (place * 3 / len(snapshots))
        depth = layer / layers
        recovered = 1 - (0.02 + 0.06 * depth + 0.04 * np.sin(layer) ** 2) * (0.5 + left)
        fvu = (0.08 + 0.2 * depth) * (0.7 + 0.6 * left) * noise.normal(1, 0.03)
        clean, zero, mean = 2.99, 13.156 - depth, 10.164 - 2 * depth
        dead = int(latents * (0.1 + 0.4 * left * noise.random()))
        values = {
            "fvu": fvu,
            "fvu_without_outliers": fvu * 1.8,
            "l0": 32.0 * noise.normal(1, 0.01),
            "l0_median": 31.0,
            "mse": 800 * fvu * (1 + 40 * depth**3),
            "cosine": 1 - fvu / 2.2,
            "norm_ratio": 1 - fvu / 2,
            "relative_bias": 1 - fvu / 9,
            "ce_clean": clean,
            "ce_zero": zero,
            "ce_mean": mean,
            "ce_sae": zero - recovered * (zero - clean),
            "ce_increase": (1 - recovered) * (zero - clean),
            "ce_recovered": recovered,
            "ce_recovered_mean_ablation": 1 - (1 - recovered) * (zero - clean) / (mean - clean),
            "kl": (1 - recovered) * 8,
            "kl_recovered": recovered * 0.99,
            "dead": dead,
            "alive": latents - dead,
            "dead_share": dead / latents,
        }
        for metric, value in values.items():
            half = float("nan") if metric in WITHOUT_INTERVAL else 0.02 * abs(value)
            rows.append(
                {
                    "recipe": recipe,
                    "layer": layer,
                    "snapshot": "final" if tokens == snapshots[-1] else format_size(tokens),
                    "tokens": tokens,
                    "metric": metric,
                    "value": float(value),
                    "low": value - half,
                    "high": value + half,
                    "unit": UNITS.get(metric, ""),
                    "held_out_tokens": 2016 if metric.startswith(LOSSES) else 8064,
                }
            )
    return rows


def write_metrics(path: Path, recipe: str, layers: int, snapshots: list[int], latents: int = 4608) -> Path:
    """The table of a recipe, as metrics.collect writes it."""
    rows = [row for layer in range(layers) for row in metric_rows(recipe, layer, layers, snapshots, latents)]
    pd.DataFrame(rows).to_parquet(path, index=False)
    return path
