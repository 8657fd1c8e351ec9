"""Plausible curves and metric tables of a whole recipe, made without training anything."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from sae_atlas.floors.fit import fit_floors
from sae_atlas.floors.predict import layer_floors
from sae_atlas.io.sizes import format_size
from sae_atlas.io.tables import write_table

UNITS = {
    "l0": "latents per token",
    "l0_median": "latents per token",
    "mse": "squared activation",
    "dead": "latents",
    "alive": "latents",
    "rank_99": "latents",
    "participation_ratio": "latents",
    **dict.fromkeys(("ce_clean", "ce_zero", "ce_mean", "ce_sae", "ce_increase", "kl"), "nats per token"),
}
WITHOUT_INTERVAL = ("dead", "alive", "dead_share", "l0_median", "rank_99", "participation_ratio")
WITHOUT_INTERVAL += ("alignment", "nearest", "settled")
LOSSES = ("ce_", "kl")


def write_curves(
    folder: Path, layers: int, snapshots: list[int], adaptive: bool, latents: int = 4608, rows: int = 60
) -> list[Path]:
    """Curves as training/curve.py writes them: of every layer a file per window. `adaptive`: L1 steered to an L0 of 48."""
    files = []
    for layer in range(layers):
        noise = np.random.default_rng(layer)
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
            write_table(path, pa.Table.from_pandas(table, preserve_index=False))
            files.append(path)
    return files


def metric_rows(recipe: str, layer: int, layers: int, snapshots: list[int], latents: int = 4608) -> list[dict]:
    """Rows of metrics.evaluate.METRIC_COLUMNS for one layer."""
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
            "rank_99": 0.6 * (latents - dead),
            "participation_ratio": 5 + 40 * (1 - depth),
            "alignment": 0.8 - 0.3 * depth,
            "nearest": 0.3 + 0.2 * depth,
            "settled": 1.0 if tokens == snapshots[-1] else 0.9 - left,
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


def write_metrics(path: Path, recipes: str | list[str], layers: int, snapshots: list[int], latents: int = 4608) -> Path:
    """The table of a recipe, or of several, as metrics.collect writes it."""
    recipes = [recipes] if isinstance(recipes, str) else recipes
    rows = [
        row
        for recipe in recipes
        for layer in range(layers)
        for row in metric_rows(recipe, layer, layers, snapshots, latents)
    ]
    write_table(path, pa.Table.from_pandas(pd.DataFrame(rows)))
    return path


def write_latents(folder: Path, layers: int, latents: int = 512, tokens: int = 8064) -> list[Path]:
    """Per-latent tables as metrics.evaluate writes them, one per layer. A tenth of the latents is dead."""
    files = []
    for layer in range(layers):
        noise = np.random.default_rng(layer)
        counts = (tokens * 10 ** noise.normal(-2, 0.6, latents)).clip(1, tokens).astype(int)
        counts[: latents // 10] = 0
        table = {
            "latent": np.arange(latents, dtype=np.int32),
            "density": counts / tokens,
            "importance": counts * noise.lognormal(0, 1, latents),
            "alignment": noise.random(latents),
            "nearest": noise.random(latents),
            "held_out_tokens": np.full(latents, tokens),
        }
        files.append(folder / f"layer{layer:02d}_latents.parquet")
        write_table(files[-1], pa.table(table))
    return files


def write_flow(path: Path, layers: int, latents: int = 512) -> Path:
    """Best matches in the neighbouring layers, as metrics.flow writes them."""
    parts = []
    for layer in range(layers):
        noise = np.random.default_rng(layer)
        part = {"layer": layer, "latent": np.arange(latents), "chance": 0.2}
        part |= {side: noise.beta(4, 2, latents).astype(np.float32) for side in ("previous", "next")}
        parts.append(pd.DataFrame(part))
    write_table(path, pa.Table.from_pandas(pd.concat(parts), preserve_index=False))
    return path


def write_seeds(path: Path, layers: int, latents: int = 400) -> Path:
    """The closest latents of two other seeds, as metrics.seed_consistency writes them: the denser, the closer."""
    parts = []
    for layer in range(layers):
        noise = np.random.default_rng(layer)
        density = 10.0 ** noise.uniform(-4, 0, latents)
        for other in ("topk-seed1", "topk-seed2"):
            part = {"layer": layer, "latent": np.arange(latents), "density": density, "other": other}
            part |= {"cosine": noise.beta(4 + np.log10(density), 1.5, latents), "chance": noise.beta(2, 6, latents)}
            parts.append(pd.DataFrame(part))
    write_table(path, pa.Table.from_pandas(pd.concat(parts), preserve_index=False))
    return path


def write_replaced(path: Path, layers: int) -> Path:
    """Losses with more and more layers replaced, as metrics.replaced_layers writes them."""
    rows = [
        {"recipe": "topk", "layers": count, "metric": metric, "value": value * count, "low": value * (count - 0.2),
         "high": value * (count + 0.2), "unit": "", "held_out_tokens": 510}
        for count in range(1, layers + 1)
        for metric, value in {"ce_recovered": 0.9 / layers, "ce_increase": 0.1, "kl": 0.1}.items()
    ]  # fmt: skip
    write_table(path, pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False))
    return path


def write_floors(path: Path, layers: int, latents: int = 512, widths: tuple = (8, 16, 32, 64)) -> Path:
    """Predicted floors as floors.predict writes them, of importances that fall the faster the deeper the layer."""
    rows = []
    for layer in range(layers):
        noise = np.random.default_rng(layer)
        importances = np.arange(1, latents + 1) ** -(0.5 + layer / layers)
        energy = importances * noise.lognormal(0, 0.3, (16, latents))
        found = layer_floors(energy, np.full(16, 800), np.full(16, 100), widths)
        rows += [{"recipe": "topk", "layer": layer, **row} for row in found]
    write_table(path, pa.Table.from_pandas(pd.DataFrame(rows)))
    return path


def write_students(folder: Path, floors: Path, widths: tuple = (8, 16, 32)) -> tuple[Path, Path]:
    """Students as floors.distill writes them, and their fit on `floors`."""
    rows = [
        {"width": width, "seed": seed, "step": step, "floor": 4 * width**-0.2 + 0.01 * seed, "falling": 0.02}
        for width in widths
        for seed in range(2)
        for step in (1, 2)
    ]
    students, fit = folder / "students.parquet", folder / "fit.parquet"
    write_table(students, pa.Table.from_pandas(pd.DataFrame(rows)))
    fit_floors(floors, students, fit, "topk")
    return students, fit
