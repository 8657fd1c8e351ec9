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
from sae_atlas.metrics.held_out import HeldOut, open_held_out, replace_site, stream_name
from sae_atlas.sites.trace import forward_pass

FVU = 0.1  # that every layer is tried with, beside its SAE's own
OUTLIER = 10  # median norms; such tokens keep their activation
BATCH = 8  # contexts


def run(results: Path, recipe: str) -> list[dict]:
    """A row per layer: the SAE's FVU and CE recovered, and the CE recovered with random errors."""
    held_out = open_held_out(results / "held_out.zarr")
    site = held_out.attrs["site"]
    if stream_name(site) != "site":
        raise SystemExit(f"{results}: an error is added to the stream; its site is {site}")
    model, _ = load(results / "base_model" / "provenance.json", held_out.model_dtype)
    rows = []
    for path in sorted((results / "metrics" / recipe).glob("layer*.json")):
        layer, found = int(path.stem.removeprefix("layer")), read_json(path)
        sae = {row["metric"]: row for row in found["metrics"] if row["snapshot"] == "final"}
        row = {"layer": layer, "fvu": sae["fvu"]["value"], "sae": _interval(sae["ce_recovered"])}
        row["same"], row["fixed"] = (with_error(model, held_out, layer, fvu) for fvu in (row["fvu"], FVU))
        rows.append(row)
        print({name: np.round(value, 3).tolist() for name, value in row.items()}, flush=True)
    return rows


def _interval(row: dict) -> list[float]:
    return [row["value"], row["low"], row["high"]]


def with_error(model, held_out: HeldOut, layer: int, fvu: float, seed: int = 0) -> list[float]:
    """CE recovered (zero ablation), and its 95% interval over contexts, with a random error of this FVU at a layer's site."""
    site, patched = held_out.attrs["site"], held_out.attrs["patched"]
    tokens, mask = (torch.from_numpy(held_out.rows(name)[:]) for name in ("tokens", "mask"))
    x = torch.from_numpy(held_out.rows(f"layer{layer:02d}/site")[:])
    norms = x.norm(dim=-1)
    ordinary = mask & (norms <= OUTLIER * norms[mask].median())
    covariance = torch.cov(x[ordinary].double().T)
    values, directions = torch.linalg.eigh(covariance)
    scale = (directions * (fvu * values.clamp(min=0)).sqrt()).float()
    generator = torch.Generator().manual_seed(seed)
    error = torch.randn(x[:patched].shape, generator=generator) @ scale.T
    changed = torch.where(ordinary[:patched, :, None], x[:patched] + error, x[:patched])
    entropies = []
    with torch.inference_mode():
        for first in range(0, patched, BATCH):
            batch = slice(first, min(first + BATCH, patched))
            with replace_site(model, site, layer, x[batch], changed[batch].to(model.dtype)):
                logits = forward_pass(model, tokens[batch]).logits[:, :-1].float()
            entropies.append(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), tokens[batch, 1:].flatten(), reduction="none"
                ).unflatten(0, logits.shape[:2])
            )
    counted = mask[:patched, :-1].numpy()
    of = {"error": torch.cat(entropies).numpy(), "clean": held_out.rows("ce_clean")[:]}
    of["zero"] = held_out.rows(f"layer{layer:02d}/ce_zero")[:]
    sums = {name: (each * counted).sum(axis=1, dtype=np.float64) for name, each in of.items()}
    drawn = resampled(sums)
    return [_recovered({name: each.sum() for name, each in sums.items()}), *confidence_interval(_recovered(drawn))]


def _recovered(sums: dict):
    return (sums["zero"] - sums["error"]) / (sums["zero"] - sums["clean"])


def markdown(found: dict) -> str:
    lines = [
        "# What an error of an SAE's size costs at every layer",
        "",
        "`python -m benchmarks.random_error` draws, for every token, an error with the covariance of the layer's activations,",
        "scaled to an FVU, adds it to the stream there and runs the rest of the model. CE recovered (zero ablation), 95%",
        f"interval over contexts. Tokens of more than {OUTLIER} median norms keep their activation. {found['tokens']:,}",
        f"held-out tokens of the atlas of {found['base_model']}, recipe {found['recipe']}.",
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
    rows = run(chosen.results, chosen.recipe)
    held_out = open_held_out(chosen.results / "held_out.zarr")
    counted = int(held_out.rows("mask")[: held_out.attrs["patched"]].sum())
    found = about(1, torch.get_num_threads()) | {"unit": "CE recovered: value, low, high", "tokens": counted}
    base_model = read_json(chosen.results / "base_model" / "provenance.json")["source"]
    found |= {"base_model": base_model, "recipe": chosen.recipe, "rows": rows}
    write(chosen.out, "random_error", found, markdown(found))


if __name__ == "__main__":
    main()
