"""What a step measures on its batch beside the gradients."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """Means over the batch; losses in scaled space."""

    loss: float
    reconstruction: float  # E||x - x_hat||^2
    sparsity: float  # the penalty term, its weight included
    l0: float  # active latents per token
    fired: Tensor  # [d_sae] bool
    smallest: float  # smallest active latent of the batch (BatchTopK's threshold follows it); 0 if none is active
