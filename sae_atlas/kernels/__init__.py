"""Backends of the training step: `reference` (torch autograd) and `cpu` (exact sparse gradients, numba). One interface:

gradients(architecture, weights, x, recipe, control) -> (gradients by name, Measured)
update(weights, gradients, moments, recipe, step, learning_rate) -> norm of the gradient before clipping
"""

from types import ModuleType


def backend_for(threads: int) -> ModuleType:
    """The backend of this machine, ready to use that many threads."""
    from sae_atlas.kernels import cpu
    from sae_atlas.kernels import threads as pool

    pool.use_threads(threads)
    return cpu
