"""How good the SAEs are, beside other libraries': `python -m benchmarks.quality [--toy] [--only NAME ...]`.

The same stored activations and tokens, the same sparsity, one evaluation (sae_atlas.metrics). Each contestant's settings
are tried on one layer with seed 0. Of those whose cross-entropy recovered is the best, but for what seeds differ by, the one
with the fewest dead latents goes on with the other seeds, and on the layers that are reported. Rows that are in quality.json
stay as they are, so that it can be made in portions and for several sizes; delete it to measure anew.
"""

import importlib.util
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.contestants import ALIKE, L0, LAYERS, SLACK, Contestant, by_trainer, contestants
from benchmarks.quality_report import markdown
from benchmarks.real import Real, default, options, toy
from benchmarks.report import about, earlier, write


def run(reals: dict[int, Real], contestant: Contestant, seeds: int, rows: list[dict]) -> Iterator[list[dict]]:
    """The contestant's rows: every setting on seed 0 of the first layer, then the best one on its other seeds and on all of
    the other layers. Those in `rows` are kept."""
    first = next(iter(reals))
    if not importlib.util.find_spec(contestant.library):
        names = {"library": contestant.library, "architecture": contestant.architecture}
        yield [{"tokens": reals[first].tokens, **names, "reason": "not installed"}]
        return
    rows = [row for row in rows if "reason" not in row]
    rows = _rows(reals[first], contestant, [(setting, 0) for setting in contestant.settings], rows)
    best = choose([row for row in rows if row["layer"] == first and row["seed"] == 0])
    for real in reals.values():
        rows = _rows(real, contestant, [(best, seed) for seed in range(seeds)], rows)
        yield [row | {"chosen": row["setting"] == best} for row in rows]


def choose(rows: list[dict]) -> dict:
    """The setting that goes on: the fewest dead latents among those that recover about as much as the best.

    One with which nothing fires is none, unless there is no other.
    """
    rows = [row for row in rows if row["l0"] > 0] or rows
    allowed = [row for row in rows if row["l0"] <= SLACK * L0] or [min(rows, key=lambda row: row["l0"])]
    enough = max(row["ce_recovered"] for row in allowed) - ALIKE
    return min((row for row in allowed if row["ce_recovered"] >= enough), key=lambda row: row["dead"])["setting"]


def _rows(real: Real, contestant: Contestant, runs: list[tuple[dict, int]], rows: list[dict]) -> list[dict]:
    """`rows` and those of `runs` (setting, seed) that are not among them."""
    there = [(row["setting"], row["seed"]) for row in rows if row["layer"] == real.layer]
    new, checkpoints = [], {}
    for setting, seed in (each for each in runs if each not in there):
        path = real.folder / f"{contestant.name.replace(' ', '_').replace(',', '')}_{len(new)}.pt"
        speed = contestant.train(real, real.store(), contestant.architecture, setting, seed, path)
        checkpoints[str(len(new))] = path
        new.append({
            "tokens": real.tokens, "layer": real.layer, "library": contestant.library,
            "architecture": contestant.architecture, "setting": setting, "seed": seed,
        })  # fmt: skip
        print(contestant.name, "layer", real.layer, setting, "seed", seed, f"{speed:.0f} tokens/s", flush=True)
    if new:
        for row, metrics in zip(new, real.evaluate(checkpoints).values(), strict=True):
            row |= metrics
    return rows + new


def measure(
    reals: dict[int, Real], trainers: list[Contestant], seeds: int, rows: dict[tuple, list[dict]]
) -> Iterator[list[dict]]:
    """All rows, again after every layer of a trainer. rows: those that are there, by tokens, library and architecture."""
    tokens = next(iter(reals.values())).tokens
    for trainer in trainers:
        key = (tokens, trainer.library, trainer.architecture)
        for state in run(reals, trainer, seeds, rows.get(key, [])):
            rows[key] = state
            yield list(itertools.chain(*rows.values()))


def main() -> None:
    parser = options(__doc__.splitlines()[0], "quality")
    parser.add_argument("--tokens", type=int, default=500_000, help="of the text, one epoch")
    names = [each.name for each in contestants(512)]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="as 'sae_lens topk'; default all")
    chosen = parser.parse_args()
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        config = toy(folder, (1, 0)) if chosen.toy else default(chosen.tokens, LAYERS)
        reals = {layer: Real(folder, config, layer) for layer in config["activations"]["layers"]}
        found = about(chosen.seeds, 2) | {"unit": "one row per trained SAE", "rows": []}
        rows = by_trainer(earlier(out, "quality", found))
        trainers = contestants(128 if chosen.toy else 512)
        trainers = [each for each in trainers if not chosen.only or each.name in chosen.only]
        for found["rows"] in measure(reals, trainers, chosen.seeds, rows):
            write(out, "quality", found, markdown(found))
    print(json.dumps(found["rows"], indent=1) if chosen.toy else markdown(found))


if __name__ == "__main__":
    main()
