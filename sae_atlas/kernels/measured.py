"""Inputs of a step beside the batch (weights, control), and what it measures on the batch beside the gradients."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Weights = dict[str, Tensor]  # by name, see sae_atlas/saes/parts.py


@dataclass(frozen=True)
class Control:
    """What changes from step to step beside the weights."""

    penalty: float = 0.0  # weight of the sparsity term: lambda, or the coefficient of the L0 penalty
    target: Tensor | None = None  # [batch, d_out], scaled: what a transcoder predicts; None: an SAE rebuilds its input
    dead: Tensor | None = None  # [d_sae] bool: latents AuxK may use; None: none are dead
    smallest: float = 0.0  # smoothed smallest active latent, near which BatchTopK looks for its threshold
    density: float = 0.5  # fraction of active latents in the last step known, by which the sparse step is chosen
    # GPU: capacity of the entry buffers, as a multiple of the expected number of active entries (`density`); None: the step
    # waits until the device has counted them. With a capacity (and `dead_capacity` for dead latents) it does not wait, and a
    # buffer that is too small gives a loss of NaN.
    entry_capacity: float | None = None
    dead_capacity: int = 0
    products: str = "bfloat16"  # GPU: arithmetic of matrix products and of what is gathered; or float32
    # A further loss of the reconstruction, by its gradient: from x_hat - x (of a transcoder y_hat - y) to d loss / d x_hat,
    # both [batch, d_out] and scaled. Called once a step, and not seen by AuxK; None: the squared error is all.
    pull: Callable[[Tensor], Tensor] | None = None
    power: float = 1.0  # p of ReLU's penalty on the sum of f^p; below 1 where it is annealed


def encoder_input(weights: Weights, x: Tensor, control: Control) -> Tensor:
    """What the encoder multiplies, [rows, d_in]."""
    return x - weights["b_dec"] if control.target is None else x


def decoder_error(x: Tensor, x_hat: Tensor, control: Control) -> Tensor:
    """x - x_hat [batch, d_in], of a transcoder y - y_hat [batch, d_out]."""
    return (x if control.target is None else control.target) - x_hat


def decoder_target(weights: Weights, x: Tensor, target: Tensor) -> Tensor:
    """What f W_dec of a transcoder should be, [rows, d_out]: its target without the bias and the skip connection."""
    left = target - weights["b_dec"]
    return left.addmm_(x, weights["W_skip"].T, alpha=-1) if "W_skip" in weights else left


@dataclass(frozen=True)
class Measured:
    """Means over the batch; losses in scaled space. Numbers may be tensors until they are needed on the host."""

    loss: float | Tensor
    reconstruction: float | Tensor  # E||x - x_hat||^2, of a transcoder E||y - y_hat||^2
    sparsity: float | Tensor  # the penalty term, its weight included
    l0: float | Tensor  # active latents per token
    fired: Tensor  # [d_sae] bool
    smallest: float | Tensor  # active latent of the batch, which BatchTopK's threshold follows; 0: none is active

    def plain(self) -> "Measured":
        """With plain floats, as checkpoints hold them; on a GPU this waits for the step."""
        return replace(self, **dict(zip(NUMBERS, floats([getattr(self, name) for name in NUMBERS]), strict=True)))

    def on_device(self) -> "Measured":
        """The same numbers in the same precision, as tensors on the step's device: the host does not wait."""

        def left(value: float | Tensor) -> Tensor:
            if isinstance(value, Tensor):
                return value.double()
            return torch.full((), value, dtype=torch.float64, device=self.fired.device)

        return replace(self, **{name: left(getattr(self, name)) for name in NUMBERS})


NUMBERS = ("loss", "reconstruction", "sparsity", "l0", "smallest")


def floats(values: list) -> list[float]:
    """Plain floats of numbers and of tensors of no dimension; these are fetched together."""
    tensors = [value.double() for value in values if isinstance(value, Tensor)]
    fetched = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(fetched) if isinstance(value, Tensor) else float(value) for value in values]
