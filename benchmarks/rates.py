"""Whether one learning rate suits every layer: `python -m benchmarks.rates [--toy]`.

Activations are scaled so that their mean squared norm is 1, on every layer. The default's first recipe is trained on five
layers at its own rate, and at rates below and above it. Writes RATES.md and rates.json.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks.contestants import LAYERS
from benchmarks.real import Real, default, default_recipe, options, toy
from benchmarks.report import about, spread, write

FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)  # of the recipe's own rate
METRICS = {"ce_recovered": "CE recovered", "fvu": "FVU", "dead": "dead latents"}


def measure(reals: dict[int, Real], recipe: dict, seeds: int) -> list[dict]:
    """A row per layer, rate and seed."""
    rows = []
    for layer, real in reals.items():
        trained = {}
        for factor in FACTORS:
            for seed in range(seeds):
                rate = recipe["learning_rate"] * factor
                checkpoint = real.folder / f"layer{layer}_{factor}_{seed}.pt"
                real.train(recipe | {"learning_rate": rate, "seed": seed}, real.store(), checkpoint)
                trained[str(checkpoint)] = {"layer": layer, "factor": factor, "learning_rate": rate, "seed": seed}
        for name, metrics in real.evaluate({name: Path(name) for name in trained}).items():
            rows.append(trained[name] | {metric: metrics[metric] for metric in METRICS})
            print(rows[-1], flush=True)
    return rows


def markdown(found: dict) -> str:
    lines = [
        "# One learning rate for all layers",
        "",
        "A store's activations are scaled so that their mean squared norm is 1, whatever the layer: what a learning rate does",
        "should then depend little on the layer. `python -m benchmarks.rates` trains the default's recipe",
        f"`{found['recipe']}` on {found['tokens']:,} tokens at its own rate ({_rate(_own(found['rows']))}) and at others,",
        f"everything else as it is. Held-out text; median over {found['rounds']} seeds (lowest to highest).",
        "",
        f"{found['machine']}, {found['date']}.",
        "",
        "| layer | learning rate | " + " | ".join(METRICS.values()) + " |",
        "|---|---|" + "---|" * len(METRICS),
    ]
    for layer in sorted({row["layer"] for row in found["rows"]}):
        for rate, rows in _by_rate(found["rows"], layer).items():
            cells = [spread([row[metric] for row in rows], _form(metric)) for metric in METRICS]
            lines.append("| " + " | ".join([str(layer), _rate(rate), *cells]) + " |")
    lines += [
        "",
        "What a layer would gain if it had a rate of its own: medians at the recipe's rate beside the best of any rate here.",
        "",
        "| layer | CE recovered | best | at | FVU | best | at |",
        "|---|---|---|---|---|---|---|",
    ]
    for layer in sorted({row["layer"] for row in found["rows"]}):
        cells = [str(layer)]
        for metric, best in (("ce_recovered", max), ("fvu", min)):
            of = {
                rate: statistics.median(row[metric] for row in rows)
                for rate, rows in _by_rate(found["rows"], layer).items()
            }
            at = best(of, key=of.get)
            cells += [f"{of[_own(found['rows'])]:.4f}", f"{of[at]:.4f}", _rate(at)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _by_rate(rows: list[dict], layer: int) -> dict[float, list[dict]]:
    """The layer's rows over the seeds, by learning rate, ascending."""
    rates = sorted({row["learning_rate"] for row in rows})
    return {rate: [row for row in rows if (row["layer"], row["learning_rate"]) == (layer, rate)] for rate in rates}


def _own(rows: list[dict]) -> float:
    return next(row["learning_rate"] for row in rows if row["factor"] == 1)


def _form(metric: str) -> str:
    return "{:.0f}" if metric == "dead" else "{:.4f}"


def _rate(rate: float) -> str:
    return f"{rate:.4g}"


def main() -> None:
    parser = options(__doc__.splitlines()[0], "rates")
    chosen = parser.parse_args()
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    name, recipe = default_recipe(chosen.toy)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        config = toy(folder, (1, 0)) if chosen.toy else default(120_000, LAYERS)
        reals = {layer: Real(folder, config, layer) for layer in config["activations"]["layers"]}
        found = about(chosen.seeds, 2) | {"unit": "one row per trained SAE", "recipe": name}
        found |= {"tokens": config["training"]["tokens"], "rows": measure(reals, recipe, chosen.seeds)}
    write(out, "rates", found, markdown(found))
    if out is None:
        print(markdown(found))


if __name__ == "__main__":
    main()
