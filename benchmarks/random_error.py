"""What an error of the size of an SAE's costs at every layer when it is random: `python -m benchmarks.random_error`.

The error is drawn from a normal distribution with the covariance of the layer's own activations, times the FVU: it has an
SAE's size and none of its structure. What it costs tells how much of an SAE's loss is the layer's, and how much its own.
Reads a finished atlas (`--results`), whose site must be the stream; writes RANDOM_ERROR.md and random_error.json.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import about, write
from sae_atlas.base_models.load import load
from sae_atlas.io.files import read_json
from sae_atlas.metrics.bootstrap import confidence_interval, resampled
from sae_atlas.metrics.held_out import open_held_out, stream_name
from sae_atlas.metrics.layer_data import LayerData
from sae_atlas.metrics.loss_recovered import ce_recovered

FVU = 0.1  # that every layer is tried with, beside its SAE's own
BATCH = 8  # contexts


def run(results: Path, recipe: str) -> dict:
    """The base model, the number of predictions, and a row per layer: the SAE's FVU and CE recovered, and the CE recovered
    with random errors; of each its value and the ends of its interval.
    """
    held_out = open_held_out(results / "held_out.zarr")
    if stream_name(held_out.attrs) == "stream":
        raise SystemExit(f"{results}: an error is added to the stream; its site is {held_out.attrs['site']}")
    model, origin = load(results / "base_model" / "provenance.json", held_out.model_dtype)
    rows = []
    for path in sorted((results / "metrics" / recipe).glob("layer*.json")):
        found = read_json(path)
        sae = {row["metric"]: row for row in found["metrics"] if row["snapshot"] == "final"}
        row = {"layer": sae["fvu"]["layer"], "fvu": sae["fvu"]["value"]}
        row["sae"] = [sae["ce_recovered"][key] for key in ("value", "low", "high")]
        data = LayerData(held_out, path.stem, found["record"]["settings"]["outlier_norm"])
        row["same"], row["fixed"] = with_errors(model, data, row["layer"], (row["fvu"], FVU))
        rows.append(row)
        print({name: np.round(value, 3).tolist() for name, value in row.items()}, flush=True)
    return {"base_model": origin["source"], "predictions": int(data.predicted.sum()), "rows": rows}


def with_errors(model, data: LayerData, layer: int, fvus: tuple[float, ...], seed: int = 0) -> list[list[float]]:
    """For every FVU the CE recovered (zero ablation), and its 95% interval over contexts, with a random error of that FVU.

    Outliers keep their activation: with them the covariance would be theirs.
    """
    x = data.y(slice(None))
    values, directions = torch.linalg.eigh(torch.cov(x[data.inside].double().T))
    shape = (directions * values.clamp(min=0).sqrt()).float()
    error = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) @ shape.T
    error[~data.inside] = 0
    sums = [np.zeros(data.patched) for _ in fvus]
    with torch.inference_mode():
        for first in range(0, data.patched, BATCH):
            batch = slice(first, min(first + BATCH, data.patched))
            clean = data.predictions(model, batch)
            for fvu, of_contexts in zip(fvus, sums, strict=True):
                replaced = x[batch] + fvu**0.5 * error[batch]
                of_contexts[batch] = data.patched_losses(model, layer, clean, replaced, batch)[0]
    found = []
    for of_contexts in sums:
        losses = data.shared | {"ce_sae": of_contexts}
        value = ce_recovered({name: each.sum() for name, each in losses.items()})
        found.append([value, *confidence_interval(ce_recovered(resampled(losses)))])
    return found


def markdown(found: dict) -> str:
    lines = [
        "# What an error of an SAE's size costs at every layer",
        "",
        "`python -m benchmarks.random_error` draws, for every token, an error with the covariance of the layer's activations,",
        "scaled to an FVU, adds it to the stream there and runs the rest of the model. CE recovered (zero ablation), 95%",
        f"interval over contexts. Outliers keep their activation. {found['predictions']:,} held-out predictions",
        f"of the atlas of {found['base_model']}, recipe {found['recipe']}.",
        "",
        f"{found['machine']}, {found['date']}.",
        "",
        f"| layer | FVU of the SAE | CE recovered with the SAE | with a random error of that FVU | of FVU {FVU} |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        cells = [
            f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in (row["sae"], row["same"], row["fixed"])
        ]
        lines.append(f"| {row['layer']} | {row['fvu']:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="of a finished atlas")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="default: benchmarks/")
    chosen = parser.parse_args()
    found = about(1, torch.get_num_threads()) | {"unit": "CE recovered: value, low, high", "recipe": chosen.recipe}
    found |= run(chosen.results, chosen.recipe)
    write(chosen.out, "random_error", found, markdown(found))


if __name__ == "__main__":
    main()
