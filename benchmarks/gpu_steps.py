"""Tokens per second and layer of the training step on a GPU: `python -m benchmarks.gpu_steps [--toy]`.

Beside it the bound of every dense trainer: six bfloat16 products of the encoder's size (12 d_in d_sae FLOP per token)
and nothing else. And the same step by the dense path, at several L0: where the two meet, gpu.DENSE_ABOVE belongs.
"""

import argparse
import datetime
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.ours import Atlas
from benchmarks.report import write
from benchmarks.workloads import Work, start
from sae_atlas.io.devices import name_of, resolve
from sae_atlas.kernels import gpu

WORKS = [Work("l1", 1024, 32768, l0) for l0 in (32, 64, 128, 200, 400, 800)] + [Work("topk", 1024, 32768, 64)]
TOY = [Work("l1", 16, 64, 4, 32), Work("topk", 16, 64, 4, 32)]
ROUNDS, STEPS = 7, 20  # median of the rounds, each so many steps that nobody waits for


def seconds(step, device: torch.device, rounds: int, steps: int) -> float:
    """Of one step, median of the rounds."""
    times = []
    for _ in range(rounds + 1):  # the first compiles
        _wait(device)
        began = time.perf_counter()
        for _ in range(steps):
            step()
        _wait(device)
        times.append((time.perf_counter() - began) / steps)
    return statistics.median(times[1:])


def measure(work: Work, device: torch.device, rounds: int, steps: int) -> dict:
    weights, x = start(work, device)
    ours = Atlas(work, weights, threads=1)
    ours.window.known = ours.state.density  # run ahead, as between two rows of the curve
    times = {}
    for path, dense_above in (("sparse path", 1.0), ("dense path", 0.0)):
        gpu.DENSE_ABOVE = dense_above
        times[path] = seconds(lambda: ours.step(x), device, rounds, steps)
    low, encoder = x.bfloat16(), weights["W_enc"].bfloat16().T
    out = torch.empty(work.batch, work.d_sae, dtype=torch.bfloat16, device=device)
    product = seconds(lambda: torch.mm(low, encoder, out=out), device, rounds, steps)
    times |= {"encoder product": product, "six products": 6 * product}
    row = {"work": work.name, "density": work.l0 / work.d_sae, "finite": ours.window.curve.finite}
    return row | {"tokens per second": {name: work.batch / each for name, each in times.items()}}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes, also in Triton's interpreter; writes nothing")
    chosen = parser.parse_args()
    device = resolve("auto")
    if device.type == "cpu" and not chosen.toy:
        sys.exit("no GPU here: nothing to measure")
    works, rounds, steps = (TOY, 1, 1) if chosen.toy else (WORKS, ROUNDS, STEPS)
    found = {
        "card": name_of(device),
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "dense above": gpu.DENSE_ABOVE,
        "rows": [measure(work, device, rounds, steps) for work in works],
    }
    print(json.dumps(found, indent=1))
    write(None if chosen.toy else Path(__file__).parent, "gpu_results", found)


if __name__ == "__main__":
    main()
