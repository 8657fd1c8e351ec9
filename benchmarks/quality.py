"""How good the SAEs are, beside other libraries': `python -m benchmarks.quality [--toy] [--only NAME ...]`.

The same stored activations and tokens, the same sparsity, one evaluation (sae_atlas.metrics). Each contestant's settings
are tried on seed 0; the one that recovers most cross-entropy goes on with the other seeds. Rows of contestants that are
not asked for stay in quality.json as they are.
"""

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path

from benchmarks.contestants import L0, Contestant, contestants
from benchmarks.quality_report import markdown
from benchmarks.real import Real, default, toy
from benchmarks.report import about
from sae_atlas.files import read_json, write_json

SLACK = 1.15  # a setting whose held-out L0 is above this times the asked one is not chosen: it would win by it


def run(real: Real, contestant: Contestant, seeds: int) -> list[dict]:
    """Rows of one contestant: every setting on seed 0, the best one on the others."""
    store = real.store()
    rows = _rows(real, store, contestant, [(setting, 0) for setting in contestant.settings])
    allowed = [row for row in rows if row["l0"] <= SLACK * L0] or [min(rows, key=lambda row: row["l0"])]
    best = max(allowed, key=lambda row: row["ce_recovered"])["setting"]
    rows += _rows(real, store, contestant, [(best, seed) for seed in range(1, seeds)])
    return [row | {"chosen": row["setting"] == best} for row in rows]


def _rows(real: Real, store, contestant: Contestant, runs: list[tuple[dict, int]]) -> list[dict]:
    rows, checkpoints = [], {}
    for setting, seed in runs:
        path = real.folder / f"{contestant.name.replace(' ', '_')}_{len(rows)}.pt"
        identity, speed = contestant.train(real, store, contestant.architecture, setting, seed, path)
        checkpoints[str(len(rows))] = (path, identity)
        rows.append({
            "library": contestant.library, "architecture": contestant.architecture, "setting": setting, "seed": seed,
            "tokens_per_second": round(speed),
        })  # fmt: skip
        print(contestant.name, setting, "seed", seed, f"{speed:.0f} tokens/s", flush=True)
    if not rows:
        return []
    for row, metrics in zip(rows, real.evaluate(checkpoints).values(), strict=True):
        row |= metrics
        print({name: round(value, 4) for name, value in metrics.items()}, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes, seconds; writes nothing unless --out is given")
    parser.add_argument("--tokens", type=int, default=120_000, help="of the text, one epoch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contestants, as 'sae_lens topk'; default all")
    parser.add_argument("--data", type=Path, help="folder that keeps model, text and stores; default: none is kept")
    parser.add_argument("--out", type=Path, help="folder of QUALITY.md and quality.json; default benchmarks/")
    chosen = parser.parse_args()
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    found = {"rows": []}
    if out and (out / "quality.json").exists():
        found = read_json(out / "quality.json")
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        real = Real(folder, toy(folder) if chosen.toy else default(chosen.tokens))
        for contestant in contestants(128 if chosen.toy else 512):
            if chosen.only and contestant.name not in chosen.only:
                continue
            kept = [row for row in found["rows"] if f"{row['library']} {row['architecture']}" != contestant.name]
            if importlib.util.find_spec(contestant.library):
                new = run(real, contestant, chosen.seeds)
            else:
                new = [
                    {"library": contestant.library, "architecture": contestant.architecture, "reason": "not installed"}
                ]
            found = about(chosen.seeds, 2) | {
                "tokens": real.tokens,
                "unit": "one row per trained SAE",
                "rows": kept + new,
            }
            if out:
                out.mkdir(parents=True, exist_ok=True)
                write_json(out / "quality.json", found)
                (out / "QUALITY.md").write_text(markdown(found))
    print(json.dumps(found["rows"], indent=1) if chosen.toy else markdown(found))


if __name__ == "__main__":
    main()
