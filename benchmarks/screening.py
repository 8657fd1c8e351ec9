"""Screening in int8: what it misses at which margin, and what it saves: `python -m benchmarks.screening [--toy]`.

A TopK and a ReLU SAE are trained on stored activations of the default model; then every pre-activation of many tokens is
computed in float32 and by the rounded product, and compared for margins of so many deviations of the rounding errors.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.contestants import L0, WARMUP
from benchmarks.real import Real, default, toy
from benchmarks.report import about, write
from sae_atlas.activations.store import open_store
from sae_atlas.kernels import cpu, screen
from sae_atlas.kernels.measured import Control
from sae_atlas.kernels.threads import MICRO_BATCH, parts_of, use_threads
from sae_atlas.saes.checkpoint import load_tensors

BATCH = 512
DEVIATIONS = (1, 2, 3, 4, 5, 6, 8)
RECIPES = {
    "topk": {"architecture": "topk", "k": L0, "learning_rate": 3e-3},
    "relu": {
        "architecture": "relu",
        "l1": {"coefficient": 0.03, "target_l0": L0},
        "sparsity_warmup": WARMUP,
        "learning_rate": 3e-3,
    },
}


def trained(real: Real, name: str) -> dict:
    """The state that training ended with: weights, mean and scale."""
    path = real.folder / f"screening_{name}.pt"
    recipe = RECIPES[name] | {"expansion": 8, "batch": BATCH, "warmup": WARMUP}
    real.train(recipe, real.store(), path)
    return load_tensors(path.with_suffix(".resume"))["state"]


def batches(real: Real, state: dict, tokens: int):
    for rows in open_store(real.store()).batches(BATCH):
        tokens -= BATCH
        yield (torch.from_numpy(rows) - state["mean"]) * state["scale"]
        if tokens <= 0:
            return


def threshold(name: str, z: Tensor) -> Tensor:
    """What an active entry is above or equal to, per row."""
    if name == "topk":
        return z.topk(L0, dim=1).values[:, -1:].clamp(min=0)
    return torch.zeros(len(z), 1)


def bounds(screened: screen.Screened, bias: Tensor, part: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What the rounded products tell of the pre-activations of some rows, and the margins of that: [rows, d_sae]."""
    products, rows = screened.products(part)
    rows, latents = ([torch.from_numpy(each) for each in three] for three in (rows, screened.latents))
    middle = torch.from_numpy(products) * (rows[0][:, None] * latents[0]) + bias
    return middle, rows[2][:, None] * latents[1] + rows[1][:, None] * latents[2]


def misses(real: Real, name: str, state: dict, tokens: int) -> dict:
    weights, seconds = state["weights"], {"whole": [], "screened": []}
    counts = {each: {"missed": 0, "computed": 0} for each in DEVIATIONS}
    active, rows, largest = 0, 0, 0.0
    for x in batches(real, state, tokens):
        x = x - weights["b_dec"]
        screened = screen.Screened(weights["W_enc"], x)
        for part in parts_of(len(x), MICRO_BATCH):
            z = torch.addmm(weights["b_enc"], x[slice(*part)], weights["W_enc"].T)
            middle, margin = bounds(screened, weights["b_enc"], part)
            low = threshold(name, z)
            is_active = (z >= low) & (z > 0)
            for each, count in counts.items():
                possible = middle + margin * (each / screen.SIGMAS) >= low
                count["missed"] += int((is_active & ~possible).sum())
                count["computed"] += int(possible.sum())
            largest = max(largest, float(((z - middle).abs() / margin).max()) * screen.SIGMAS)
            active, rows = active + int(is_active.sum()), rows + len(z)
        for way, kind in (("whole", cpu.Whole), ("screened", screen.Screened)):
            step = cpu.Step(weights, x + weights["b_dec"], Control())
            began = time.perf_counter()
            step.encoded = kind(weights["W_enc"], step.x)
            step.largest(L0) if name == "topk" else step.above(0.0)
            seconds[way].append(time.perf_counter() - began)
    return {
        "recipe": name, "tokens": rows, "pre_activations": rows * len(weights["b_enc"]), "active": active / rows,
        "largest_error": largest,
        "margins": [{"deviations": each, "missed": count["missed"], "computed": count["computed"] / rows}
                    for each, count in counts.items()],
        "ms": {way: 1000 * statistics.median(each[1:]) for way, each in seconds.items()},
    }  # fmt: skip


def markdown(found: dict) -> str:
    lines = [
        "# Screening in int8",
        "",
        "The encoder product of the CPU's step is computed in int8, which AVX-512 VNNI multiplies four times as fast as",
        "float32; what may be active by it and its margin is computed again in float32. Layer 14 of the default model,",
        f"expansion 8, L0 {L0}, trained SAEs on the text they were trained on; every pre-activation is compared with the",
        "float32 product. A margin of so many deviations: of the error from rounding the batch, plus as many of the one",
        f"from rounding the encoder. The step takes {screen.SIGMAS:g}. Time: a batch of {BATCH}; rounding, product and",
        "collecting, beside the same with the float32 product, one after the other, medians.",
        "",
        f"{found['machine']}, {found['threads']} threads, {found['date']}.",
    ]
    for row in found["rows"]:
        lines += [
            "",
            f"## {row['recipe']}: {row['active']:.1f} active of {row['tokens']:,} tokens",
            "",
            f"{row['pre_activations']:,} pre-activations; the largest error is {row['largest_error']:.2f} deviations. Screened "
            f"{row['ms']['screened']:.1f} ms, whole {row['ms']['whole']:.1f} ms.",
            "",
            "| margin, deviations | active entries missed | computed again per token |",
            "|---|---|---|",
            *(f"| {each['deviations']} | {each['missed']:,} | {each['computed']:.1f} |" for each in row["margins"]),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes, seconds; writes nothing unless --out is given")
    parser.add_argument("--data", type=Path, help="folder that keeps model, text and stores; default: none is kept")
    parser.add_argument("--out", type=Path, help="folder of SCREENING.md and screening.json; default benchmarks/")
    chosen = parser.parse_args()
    if not screen.available():
        raise SystemExit("this CPU has no int8 products (AVX-512 VNNI)")
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    tokens = 2048 if chosen.toy else 120_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        real = Real(folder, toy(folder) if chosen.toy else default(tokens))
        states = {name: trained(real, name) for name in RECIPES}
        use_threads(2)
        rows = [misses(real, name, state, tokens) for name, state in states.items()]
    found = about(1, 2) | {"unit": "one row per SAE", "rows": rows}
    print(json.dumps(rows, indent=1) if chosen.toy else markdown(found))
    write(out, "screening", found, markdown(found))


if __name__ == "__main__":
    main()
