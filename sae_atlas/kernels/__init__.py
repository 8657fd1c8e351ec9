"""Backends of the training step: `reference` (torch autograd), and exact sparse gradients on `cpu` (numba) and `gpu` (Triton).

One interface:
gradients(architecture, weights, x, recipe, control) -> (gradients by name, Measured)
dense_above(architecture, d_in) -> active fraction above which `gradients` takes a dense path
update(weights, gradients, moments, recipe, step, learning_rate) -> norm of the gradient before clipping
ASYNCHRONOUS: True if results stay on the device and the host does not synchronise
"""

from types import ModuleType

from sae_atlas.io.errors import AtlasError


def backend_for(threads: int, device: str) -> ModuleType:
    """The backend of a device type (`cpu`, `cuda`), ready to use that many threads."""
    from sae_atlas.kernels import threads as pool

    pool.use_threads(threads)
    if device == "cpu":
        from sae_atlas.kernels import cpu

        return cpu
    try:
        from sae_atlas.kernels import gpu
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise AtlasError("training.device: a GPU needs the package triton, which its build of torch names") from error
    return gpu
