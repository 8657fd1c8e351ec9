"""What `base_model.dtype: bfloat16` changes, in the numbers and in time: `python -m benchmarks.precision [--toy]`.

The default's first recipe is trained on some layers' activations of passes in float32 and in bfloat16, and each SAE is
measured with passes of both. Writes PRECISION.md and precision.json.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.real import Real, default, default_recipe, options, toy
from benchmarks.report import about, spread, write
from sae_atlas.base_models.load import load
from sae_atlas.io.devices import BFLOAT16, cpu_flags

LAYERS = (3, 14, 29)  # early, middle, last
DTYPES = ("float32", "bfloat16")
TIMED = (8, 128)  # contexts and tokens of a pass that is timed
METRICS = {"ce_recovered": "CE recovered", "kl_recovered": "KL recovered", "fvu": "FVU", "dead": "dead latents"}


def measure(reals: dict[str, dict[int, Real]], recipe: dict, seeds: int) -> list[dict]:
    """A row per layer, seed, dtype of the passes that it was trained on and of those that it is measured with."""
    rows = []
    for layer in reals[DTYPES[0]]:
        checkpoints = {}
        for dtype in DTYPES:
            real = reals[dtype][layer]
            for seed in range(seeds):
                path = checkpoints[f"{dtype} {seed}"] = real.folder / f"layer{layer}_{seed}.pt"
                real.train(recipe | {"seed": seed}, real.store(), path)
        for measured_in in DTYPES:
            for name, metrics in reals[measured_in][layer].evaluate(checkpoints).items():
                trained_on, seed = name.split()
                cell = {"layer": layer, "seed": int(seed), "trained_on": trained_on, "measured_in": measured_in}
                rows.append(cell | {metric: metrics[metric] for metric in METRICS})
                print(rows[-1], flush=True)
    return rows


def seconds(reals: dict[str, Real], rounds: int) -> dict[str, list[float]]:
    """Of a pass over TIMED tokens with all blocks and the head, by dtype; each round times every dtype once."""
    models = {dtype: load(real.model, dtype, "cpu")[0] for dtype, real in reals.items()}
    ids = torch.randint(0, models[DTYPES[0]].config.vocab_size, TIMED, generator=torch.Generator().manual_seed(0))
    taken = {dtype: [] for dtype in models}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for dtype, model in models.items():
                began = time.perf_counter()
                model(ids)
                if number:  # the first prepares weights
                    taken[dtype].append(time.perf_counter() - began)
    return taken


def markdown(found: dict) -> str:
    float32, bfloat16 = (found["seconds"][dtype] for dtype in DTYPES)
    times = statistics.median(float32) / statistics.median(bfloat16)
    contexts, context = TIMED
    lines = [
        "# Passes in bfloat16",
        "",
        "`python -m benchmarks.precision` trains the first recipe of config/config.yaml, on the date below",
        f"`{found['recipe']}`, on {found['tokens']:,} tokens of activations, from passes in float32 and in bfloat16",
        "(`base_model.dtype`), and measures every SAE with passes of both",
        f"on held-out text. Median over {found['rounds']} seeds (lowest to highest).",
        "",
        f"{found['machine']}, {found['date']}.",
        "",
        "| layer | trained on | measured in | " + " | ".join(METRICS.values()) + " |",
        "|---|---|---|" + "---|" * len(METRICS),
    ]
    for key in dict.fromkeys(_cell(row) for row in found["rows"]):
        own = [row for row in found["rows"] if _cell(row) == key]
        cells = [spread([row[metric] for row in own], "{:.0f}" if metric == "dead" else "{:.4f}") for metric in METRICS]
        lines.append("| " + " | ".join([*map(str, key), *cells]) + " |")
    lines += [
        "",
        f"A pass over {contexts} contexts of {context} tokens, all blocks and the head, on {found['threads']} threads, the two",
        f"in turn: {spread(float32, '{:.2f}')} s in float32, {spread(bfloat16, '{:.2f}')} s in bfloat16,",
        f"{times:.1f} times as fast.",
        f"Instructions of this CPU for bfloat16: {', '.join(found['has']) or 'none'}.",
    ]
    return "\n".join(lines) + "\n"


def _cell(row: dict) -> tuple:
    return row["layer"], row["trained_on"], row["measured_in"]


def main() -> None:
    parser = options(__doc__.splitlines()[0], "precision")
    chosen = parser.parse_args()
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    threads = torch.get_num_threads()
    name, recipe = default_recipe(chosen.toy)
    with tempfile.TemporaryDirectory() as temporary:
        reals = {}
        for dtype in DTYPES:
            folder = (chosen.data or Path(temporary)) / dtype
            config = toy(folder, (1, 0)) if chosen.toy else default(120_000, LAYERS)
            config["base_model"] = config["base_model"] | {"dtype": dtype}
            reals[dtype] = {layer: Real(folder, config, layer) for layer in config["activations"]["layers"]}
        tokens, first = config["training"]["tokens"], config["activations"]["layers"][0]
        found = about(chosen.seeds, threads) | {"unit": "one row per SAE and dtype of the passes it is measured with"}
        found |= {"recipe": name, "tokens": tokens, "rows": measure(reals, recipe, chosen.seeds)}
        torch.set_num_threads(threads)
        found["seconds"] = seconds({dtype: of_layers[first] for dtype, of_layers in reals.items()}, rounds=5)
    found["has"] = sorted(BFLOAT16 & cpu_flags())
    write(out, "precision", found, markdown(found))
    if out is None:
        print(markdown(found))


if __name__ == "__main__":
    main()
