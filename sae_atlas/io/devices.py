"""Which device computes: `auto` takes a GPU where there is one, `cpu` and `cuda` are what they say."""

from pathlib import Path

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.gpu_locks import take
from sae_atlas.io.log import in_job

CPU = Path("/proc/cpuinfo")  # of Linux, which alone says what a CPU has
SPREAD = "spread"  # of a base model that does not fit one device (base_models.load.read_model)


def resolve(device: str):
    """The torch.device. Raises AtlasError if `cuda` is asked for and this process finds none.

    In a job of the workflow a GPU is one that no other job has (`reserve`): call it before anything that asks CUDA.
    """
    import torch

    reserve(device)
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        build = "torch finds no GPU" if torch.version.cuda else f"torch {torch.__version__} is a build without CUDA"
        raise AtlasError(
            f"training.device: `cuda` is asked for, but {build}; set `auto` or `cpu`, or see the README for the build of torch"
        )
    return torch.device("cuda" if found and device != "cpu" else "cpu")


def reserve(device: str) -> None:
    """In a job of the workflow, wait for a GPU of its own; `spread`: for all that are free. Elsewhere do nothing."""
    if device != "cpu" and in_job():
        take(every=device == SPREAD)


def name_of(device) -> str:
    """`cpu`, or the card's name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def multiplies_bfloat16(device: str) -> bool:
    """Whether what `device` will compute on has instructions for products in bfloat16. Imports no torch.

    GPUs count as such: from Ampere on they have them.
    """
    if gpus_for(device):
        return True
    try:
        about = CPU.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    named = ("flags", "features")  # on x86 and Arm
    flags = {word for line in about.lower().splitlines() if line.startswith(named) for word in line.split()}
    return not flags.isdisjoint({"amx_bf16", "avx512_bf16", "bf16"})


def gpus_for(device: str) -> int:
    """GPUs a job asks its scheduler for. `auto`: 1 if this machine has one; on a cluster, say `cuda`. Imports no torch."""
    return int(device == "cuda" or (device == "auto" and Path("/dev/nvidiactl").exists()))
