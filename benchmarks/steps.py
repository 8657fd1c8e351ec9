"""Time one training step of every implementation on every work: `python -m benchmarks.steps [--toy]`.

One process, interleaved: each round times every implementation once, in an order that turns by one from round to round.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from benchmarks.agreement import TOLERANCE, difference
from benchmarks.ours import Atlas
from benchmarks.peers import PEERS
from benchmarks.report import about, markdown, write
from benchmarks.stubs import put_in_place
from benchmarks.workloads import TOY, WORKS, Work, decided, start
from sae_atlas.kernels.threads import use_threads

WARM = 2  # steps before the clock runs: compilers, allocators, Adam's state


class EncoderProduct:
    """(x - b_dec) W_enc^T + b_enc into memory that is there already: what every step contains."""

    def __init__(self, work: Work, weights, threads: int):
        self.work, self.threads, self.weights = work, threads, weights
        self.z = torch.empty(work.batch, work.d_sae)

    def step(self, x) -> None:
        torch.set_num_threads(self.threads)
        weights, (x, target) = self.weights, self.work.split(x)
        torch.addmm(weights["b_enc"], x - weights["b_dec"] if target is None else x, weights["W_enc"].T, out=self.z)


def measure(work: Work, rounds: int, threads: int) -> tuple[list[dict], list[dict]]:
    """(rows of the table, rows about gradients) of one work."""
    weights, x = start(work)
    ours = Atlas(work, weights, threads)
    found = {"sae_atlas": ours}
    gradients, absent = [], {}
    clear = x[decided(work, weights, x)]
    true = ours.gradients(clear)
    for name, kind in PEERS.items():
        try:
            peer = kind(work, weights, threads)
        except (ImportError, NotImplementedError) as reason:
            absent[name] = str(reason)
            continue
        found[name] = peer
        differences = difference(true, peer.gradients(clear), weights["W_dec"], peer.scale(clear))
        agree = max(differences.values()) <= TOLERANCE
        compared = {"agree": agree, "differences": differences, "left_out": len(x) - len(clear)}
        gradients.append({"work": work.name, "implementation": name, **compared})
    found["encoder product"] = EncoderProduct(work, weights, threads)
    times = _rounds(found, x, rounds)
    rows = []
    for name in ("sae_atlas", *PEERS, "encoder product"):
        row = {"work": work.name, "implementation": name, "ms": None, "low": None, "high": None}
        if name in times:
            row |= {"ms": statistics.median(times[name]), "low": min(times[name]), "high": max(times[name])}
        else:
            row["reason"] = absent[name]
        rows.append(row)
    rows[0]["l0"] = ours.l0
    use_threads(1)
    return rows, gradients


def _rounds(found: dict, x, rounds: int) -> dict[str, list[float]]:
    """Milliseconds by implementation."""
    for each in found.values():
        for _ in range(WARM):
            each.step(x)
    names = list(found)
    times = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            found[name].step(x)
            times[name].append(1000 * (time.perf_counter() - began))
    return times


def run(works, rounds: int, threads: int) -> dict:
    put_in_place()
    rows, gradients = [], []
    for work in works:
        print(work.name, flush=True)
        more, checked = measure(work, rounds, threads)
        rows += more
        gradients += checked
    return about(rounds, threads) | {"rows": rows, "gradients": gradients}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes, seconds; writes nothing unless --out is given")
    parser.add_argument("--rounds", type=int, default=None, help="7, or 2 with --toy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder of RESULTS.md and results.json; default benchmarks/")
    chosen = parser.parse_args()
    rounds = chosen.rounds or (2 if chosen.toy else 7)
    results = run(TOY if chosen.toy else WORKS, rounds, chosen.threads)
    print(markdown(results))
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    write(out, "results", results, markdown(results))


if __name__ == "__main__":
    main()
