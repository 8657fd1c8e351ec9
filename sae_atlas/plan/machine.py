"""How fast this machine is: a probe of a few seconds. And a table of GPUs to compare it with."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sae_atlas.io.errors import AtlasError, reason

PROBE_BYTES = 2**27
ROUNDS, ROUND = 6, 0.3  # s
PRODUCT = (2048, 1024, 4096)  # sizes of the product that is timed
STEP = (512, 576, 4608, 32)  # tokens, dimensions, latents and k of the training step that is timed
# What a job of each kind imports before it works.
STARTS = {
    "light": "sae_atlas.activations.shard",
    "figure": "sae_atlas.figures.metrics_heatmap",
    "torch": "sae_atlas.training.train",
    "model": "sae_atlas.metrics.evaluate, transformers.models.auto.modeling_auto, transformers.generation.utils",
}


@dataclass(frozen=True)
class Machine:
    """Of the whole machine; jobs that run side by side share it."""

    name: str
    cores: int
    passes: float  # FLOP/s of a large matrix product in the dtype of the base model's passes
    training: (
        float  # FLOP/s of a training step of an SAE, in the products and loops that are counted for it (work.train_sae)
    )
    memory: float  # bytes/s moved by an addition
    writing: float  # bytes/s to disk, flushed
    reading: float  # bytes/s from disk, not from its cache
    starts: dict[str, float]  # s before a job of that kind works, with all cores starting jobs


@dataclass(frozen=True)
class Gpu:
    """Dense bfloat16 products and memory bandwidth by the maker's data sheet."""

    flops: float  # per second
    memory: float  # bytes/s


GPUS = {
    "L4": Gpu(121e12, 0.30e12),
    "RTX4090": Gpu(165e12, 1.01e12),
    "A100": Gpu(312e12, 2.04e12),
    "H100": Gpu(989e12, 3.35e12),
    "H200": Gpu(989e12, 4.80e12),
}
GPU_START = 10.0  # s that a job with a GPU takes longer to begin: CUDA's libraries, and the model to the card
# What a rule's time on a cluster is reckoned by: cores of ten years ago, a network disk that others use.
SLOW_NODE = Machine("a slow node", 8, 2e11, 2e11, 1e10, 1e8, 1e8, dict.fromkeys(STARTS, 20.0))


def probe(folder: str | Path, dtype: str, cores: int | None = None) -> Machine:
    """Measure this machine: about 10 s. folder: where the atlas will be. dtype: of the base model's passes."""
    import torch

    cores = cores or available_cores()
    torch.set_num_threads(cores)
    total, term = torch.zeros(2**25), torch.ones(2**25)
    writing, reading = (max(speeds) for speeds in zip(*(_disk(Path(folder)) for _ in range(3)), strict=True))
    return Machine(
        name=f"this machine, {cores} cores",
        cores=cores,
        passes=_products(dtype),
        memory=3 * total.nbytes * _rate(lambda: total.add_(term)),
        writing=writing,
        reading=reading,
        starts={kind: _start(modules, cores) for kind, modules in STARTS.items()},
        training=_training(cores),  # last: a step shares its work out itself, and leaves torch with one thread
    )


def available_cores() -> int:
    """Cores that this process may use: Linux alone says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _products(dtype: str) -> float:
    """FLOP/s of a large matrix product."""
    import torch

    rows, inner, columns = PRODUCT
    sizes = (rows, inner), (inner, columns), (rows, columns)
    left, right, out = (torch.ones(size, dtype=getattr(torch, dtype)) for size in sizes)
    return 2 * rows * inner * columns * _rate(lambda: torch.mm(left, right, out=out))


def _training(cores: int) -> float:
    """FLOP/s of the gradients of a TopK step, in the int8 screening and the loops that this processor has."""
    import torch

    from sae_atlas.config.read import complete_recipe
    from sae_atlas.kernels import backend_for
    from sae_atlas.kernels.measured import Control
    from sae_atlas.saes import architecture
    from sae_atlas.saes.parts import initial_weights
    from sae_atlas.training.recipe import Recipe

    rows, d_in, latents, k = STEP
    sizes = {"architecture": "topk", "expansion": latents // d_in, "k": k, "batch": rows}
    recipe = Recipe.from_dict(complete_recipe(sizes))
    weights, x = initial_weights(d_in, latents, torch.zeros(d_in), seed=0), torch.randn(rows, d_in) / d_in**0.5
    gradients, control = backend_for(cores, "cpu").gradients, Control(density=k / latents)
    of_step = rows * d_in * (2 * latents + 6 * k)
    return of_step * _rate(lambda: gradients(architecture("topk"), weights, x, recipe, control))


def _rate(work: Callable) -> float:
    """Calls per second, in the best of a few rounds: what else the machine does only slows it."""
    work()  # the first call is not counted
    best = 0.0
    for _ in range(ROUNDS):
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < ROUND:
            work()
            calls += 1
        best = max(best, calls / (time.perf_counter() - began))
    return best


def _start(modules: str, cores: int) -> float:
    """Seconds until a new process has the modules, as many starting at once as there are cores."""
    began = time.perf_counter()
    for process in [subprocess.Popen([sys.executable, "-c", f"import {modules}"]) for _ in range(cores)]:
        process.wait()
    return time.perf_counter() - began


def _disk(folder: Path) -> tuple[float, float]:
    """Bytes per second written and read, flushed to the disk and read back from it."""
    folder = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    file, block = folder / f".probe-{os.getpid()}", os.urandom(2**24)
    try:
        began = time.perf_counter()
        with file.open("wb") as stream:
            for _ in range(PROBE_BYTES // len(block)):
                stream.write(block)
            os.fsync(stream.fileno())
            written = time.perf_counter()
            if hasattr(os, "posix_fadvise"):  # macOS has none: its cache is what is measured there
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        opened = time.perf_counter()
        with file.open("rb") as stream:
            while stream.read(len(block)):
                pass
        return PROBE_BYTES / (written - began), PROBE_BYTES / (time.perf_counter() - opened)
    except OSError as error:
        raise AtlasError(f"{folder}: its disk cannot be measured ({reason(error)}); see --directory") from error
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
