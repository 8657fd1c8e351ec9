"""All that a machine with a GPU is asked at once, in under eight minutes: `python -m benchmarks.gpu_check [--toy]`.

The tests of the kernels on the card; the step beside the bound of dense trainers (benchmarks.gpu_steps); and the chain at the
headline's shape (Pythia-410M with random weights, one layer of 32,768 latents): capture, shard, training, measurement. The file
of results is written after each part, so that what was measured is kept where time runs out.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import gpu_steps
from benchmarks.real import Real, numbered, toy
from benchmarks.report import write
from sae_atlas.io.devices import name_of, resolve

TESTS = ["tests/test_gpu_kernels.py"]
PATIENCE = 180  # s for the tests
WORKS = [gpu_steps.Work("l1", 1024, 32768, 64), gpu_steps.Work("topk", 1024, 32768, 64)]
LAYER, TOKENS = 12, 262_144
HEADLINE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def tests() -> dict:
    """The last line of the tests of the kernels, on this card."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE)
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        failed = [line for line in said if line.startswith("FAILED")]
        return {
            "exit code": done.returncode,
            "failed": failed,
            "said": said[-1],
            "seconds": time.perf_counter() - began,
        }
    except subprocess.TimeoutExpired:
        return {"exit code": None, "failed": [], "said": f"not done after {PATIENCE} s", "seconds": PATIENCE}


def chain(folder: Path, small: bool) -> Iterator[tuple[str, dict]]:
    """(stage, what it took) of one layer, from a text of numbered sentences to its metrics."""
    held_out = {"tokens": TOKENS // 8, "patched_tokens": TOKENS // 16}
    config = toy(folder) if small else numbered(folder, HEADLINE, [LAYER], TOKENS, held_out, 1024, "bfloat16")
    tokens, measured = config["training"]["tokens"], config["evaluation"]["tokens"]
    real = Real(folder, config)
    yield "save_activations", _took(real.seconds["save_activations"], tokens)
    yield "save_held_out", _took(real.seconds["save_held_out"], measured)
    store = real.store()
    yield "shard_activations", _took(real.seconds["shard_activations"], tokens)
    recipe = {"architecture": "topk", "expansion": 4 if small else 32, "k": 8 if small else 64}
    recipe |= {"batch": 128 if small else 4096, "learning_rate": 1e-3}
    for number in (1, 2):  # the first compiles the kernels
        began = time.perf_counter()
        real.train(recipe, store, folder / "sae.pt")
        yield f"train_sae, run {number}", _took(time.perf_counter() - began, tokens)
    began = time.perf_counter()
    metrics = real.evaluate({"final": folder / "sae.pt"})["final"]
    yield "evaluate_sae", _took(time.perf_counter() - began, measured) | {"metrics": metrics}


def _took(seconds: float, tokens: int) -> dict:
    return {"seconds": seconds, "tokens per second": tokens / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--toy", action="store_true", help="tiny sizes, without a GPU too; writes nothing unless --out is given"
    )
    parser.add_argument("--out", type=Path, help="folder of gpu_check.json; default benchmarks/")
    chosen = parser.parse_args()
    device = resolve("auto")
    if device.type == "cpu" and not chosen.toy:
        sys.exit("no GPU here: nothing to check")
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    found = {"card": name_of(device), "date": datetime.date.today().isoformat(), "torch": torch.__version__}
    found |= {"chain": {}, "steps": [], "tests": None}
    with tempfile.TemporaryDirectory() as folder:
        for stage, took in chain(Path(folder), chosen.toy):
            found["chain"][stage] = took
            write(out, "gpu_check", found)
    works, rounds, steps = (gpu_steps.TOY, 1, 1) if chosen.toy else (WORKS, 3, gpu_steps.STEPS)
    for work in works:
        found["steps"].append(gpu_steps.measure(work, device, rounds, steps))
        write(out, "gpu_check", found)
    if not chosen.toy:
        found["tests"] = tests()
    write(out, "gpu_check", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
