"""Which device computes: `auto` takes a GPU where there is one, `cpu` and `cuda` are what they say."""

import os
from importlib.metadata import version
from pathlib import Path

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.gpu_locks import VISIBLE, take
from sae_atlas.io.log import in_job

CPU_INFO = Path("/proc/cpuinfo")  # of Linux, which alone says what a processor has
BFLOAT16 = {"amx_bf16", "avx512_bf16", "bf16"}  # flags, the last of Arm's
SPREAD = "spread"  # of a base model that does not fit one device (base_models.load.read_model)


def resolve(device: str):
    """The torch.device. Raises AtlasError if `cuda` is asked for and this process finds none.

    In a job of the workflow a GPU is one that no other job has (`reserve`): call it before anything that asks CUDA.
    """
    import torch

    reserve(device)
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        build = "torch finds no GPU" if torch.version.cuda else f"torch {torch.__version__} is a build without CUDA"
        raise AtlasError(
            f"training.device: `cuda` is asked for, but {build}; set `auto` or `cpu`, or see the README for the build of torch"
        )
    return torch.device("cuda" if has_gpu and device != "cpu" else "cpu")


def reserve(device: str) -> None:
    """In a job of the workflow, wait for a GPU of its own; `spread`: for all that are free. Elsewhere do nothing."""
    if device != "cpu" and in_job():
        take(every=device == SPREAD)


def name_of(device) -> str:
    """`cpu`, or the card's name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def multiplies_bfloat16(device: str) -> bool:
    """Whether what `device` computes on has instructions for products in bfloat16. Imports no torch.

    Every GPU counts as such a one, though those before Ampere emulate them.
    """
    if device == "cuda" or (gpus_for(device) and _torch_finds_gpus()):
        return True
    return not BFLOAT16.isdisjoint(cpu_flags())


def let_threads_sleep() -> None:
    """Of jobs whose torch is loaded after this, unless the user says otherwise; before, libgomp does not read it.

    Threads that spin until there is work for them take the processor from whatever else the machine does: beside other work a
    pass of two threads took 1.7 to 2.7 times as long with them.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def cpu_flags() -> set[str]:
    """What the processor says it has, in lower case; nothing where it does not say."""
    try:
        about = CPU_INFO.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return set()
    lines = [line for line in about.splitlines() if line.startswith(("flags", "features"))]  # on x86 and Arm
    return {word for line in lines for word in line.split()}


def _torch_finds_gpus() -> bool:
    return not version("torch").endswith("+cpu") and os.environ.get(VISIBLE) != ""


def gpus_for(device: str) -> int:
    """GPUs a job asks its scheduler for. `auto`: 1 if this machine has one; on a cluster, say `cuda`. Imports no torch."""
    return int(device == "cuda" or (device == "auto" and Path("/dev/nvidiactl").exists()))
