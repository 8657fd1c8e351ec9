"""Does the controller of lambda reach its target? `python -m benchmarks.controller [--toy]`.

The recipe `l1-adaptive` of the default config on layer 14 of the default model, one epoch, with several targets; beside each
the L0 at the end of training (what the controller sees, and what the card judges by) and on held-out tokens.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.real import Real, default, toy
from benchmarks.report import about, write
from sae_atlas.saes.checkpoint import load_checkpoint

RECIPE = {
    "architecture": "relu",
    "expansion": 8,
    "batch": 256,
    "learning_rate": 2e-3,
    "clip": 0.1,
    "warmup": 20,
    "sparsity_warmup": 20,
    "dead_after": "10k",
}
COEFFICIENT = 0.1  # lambda starts here, whatever the target
TARGETS = (32, 64, 128)


def run(real: Real, targets: list[int]) -> list[dict]:
    store, paths = real.store(), {}
    for target in targets:
        recipe = RECIPE | {"l1": {"coefficient": COEFFICIENT, "target_l0": target}}
        paths[str(target)] = real.folder / f"controller_{target}.pt"
        real.train(recipe, store, paths[str(target)])
    measured, rows = real.evaluate(paths), []
    for target in targets:
        loaded = load_checkpoint(paths[str(target)])
        row = {"target_l0": target, **{name: loaded["stats"][name] for name in ("settled_l0", "converged")}}
        row |= {"lambda": {name: loaded["config"]["lambda"][name] for name in ("canonical", "last")}}
        rows.append(row | {name: measured[str(target)][name] for name in ("l0", "fvu", "ce_recovered")})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes, seconds; writes nothing unless --out is given")
    parser.add_argument("--targets", type=int, nargs="+", default=TARGETS)
    parser.add_argument("--data", type=Path, help="folder that keeps model, text and store; default: none is kept")
    parser.add_argument("--out", type=Path, help="folder of controller.json; default benchmarks/")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        real = Real(folder, toy(folder) if chosen.toy else default(120_000))
        rows = run(real, [4, 8] if chosen.toy else chosen.targets)
        found = about(1, 2) | {"unit": "one row per target", "layer": real.layer, "tokens": real.tokens, "rows": rows}
    print(json.dumps(rows, indent=1))
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    write(out, "controller", found)


if __name__ == "__main__":
    main()
