"""What a step works on, what it is told, and what it measures on its batch beside the gradients."""

from dataclasses import dataclass

from torch import Tensor

Weights = dict[str, Tensor]  # by name, see sae_atlas/saes/parts.py


@dataclass(frozen=True)
class Control:
    """What changes from step to step beside the weights."""

    penalty: float = 0.0  # weight of the sparsity term: lambda, or the coefficient of the L0 penalty
    dead: Tensor | None = None  # [d_sae] bool: latents AuxK may use; None: none are dead
    smallest: float = 0.0  # smoothed smallest active latent, near which BatchTopK looks for its threshold
    density: float = 0.5  # fraction of active latents in the step before, by which the sparse step is chosen


@dataclass(frozen=True)
class Measured:
    """Means over the batch; losses in scaled space."""

    loss: float
    reconstruction: float  # E||x - x_hat||^2
    sparsity: float  # the penalty term, its weight included
    l0: float  # active latents per token
    fired: Tensor  # [d_sae] bool
    smallest: float  # smallest active latent of the batch (BatchTopK's threshold follows it); 0 if none is active
