"""The step where many latents are active, as early in a run with a penalty: whole products, and passes in cache.

Five products of the encoder's size, and two of a skip connection's. Autograd takes two and a half times as long, as it
writes every [batch, d_sae] matrix to memory several times; here a matrix is [MICRO_BATCH, d_sae] and stays in cache until
the weights' gradients are summed. Micro-batches are summed in GROUPS fixed groups, so any number of threads gives the same
bits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_atlas.kernels.loops import kernel
from sae_atlas.kernels.measured import Control, Measured, Weights, decoder_target, encoder_input, floats
from sae_atlas.kernels.threads import MICRO_BATCH, own_buffer, parts_of, run, shared_buffer

GROUPS = 4  # of micro-batches, each with arrays of the weights' size; no more threads than groups have work


@kernel
def activate(z, low, latents, sums, counts, smallest):
    """latents [rows, d_sae] = z where it is above 0 and above `low` [d_sae], else 0; per latent: sum, count, smallest."""
    zero = z.dtype.type(0)
    for row in range(len(z)):
        line, out = z[row], latents[row]
        for i in range(len(line)):
            value = line[i]
            active = value > max(low[i], zero)
            latent = value if active else zero
            out[i] = latent
            sums[i] += latent
            counts[i] += np.int32(active)
            smallest[i] = value if active and value < smallest[i] else smallest[i]


@kernel
def mask(dots, latents, factor, weight, sums):
    """dots [rows, d_sae] = factor * dots + weight [d_sae] where the latent is active, else 0; sums [d_sae] of them."""
    zero = dots.dtype.type(0)
    for row in range(len(dots)):
        line, active = dots[row], latents[row]
        for i in range(len(line)):
            value = factor * line[i] + weight[i]
            value = value if active[i] > 0 else zero
            line[i] = value
            sums[i] += value


@kernel
def near(z, dots, low, half, counts, sums):
    """Per latent, of the z within `half` of `low`: how many, and the sum of their dots."""
    zero = z.dtype.type(0)
    for row in range(len(z)):
        line, dot = z[row], dots[row]
        for i in range(len(line)):
            inside = abs(line[i] - low[i]) < half
            counts[i] += np.int32(inside)
            sums[i] += dot[i] if inside else zero


@dataclass
class Sums:
    """Over the rows of a group: [d_sae] unless another shape is named."""

    latents: np.ndarray
    active: np.ndarray  # how many rows
    smallest: np.ndarray  # active latent; inf: none
    encoder: np.ndarray  # d loss / d z
    near: np.ndarray  # how many rows
    near_dots: np.ndarray  # residual times decoder row, of these
    residual: np.ndarray  # [d_out]
    squares: float = 0.0  # of the residual
    begun: bool = False

    @classmethod
    def zeros(cls, d_out: int, d_sae: int, dtype) -> "Sums":
        def zeros(kind=dtype):
            return np.zeros(d_sae, kind)

        return cls(zeros(), zeros(np.int32), np.full(d_sae, np.inf, dtype), zeros(), zeros(np.int32), zeros(),
                   np.zeros(d_out, dtype))  # fmt: skip

    def l0(self, rows: int) -> float:
        return float(self.active.sum(dtype=np.int64)) / rows

    def add(self, other: "Sums") -> None:
        for name in ("latents", "active", "encoder", "near", "near_dots", "residual"):
            getattr(self, name).__iadd__(getattr(other, name))
        np.minimum(self.smallest, other.smallest, out=self.smallest)
        self.squares += other.squares


class DenseStep:
    """One batch on its way through the dense step."""

    def __init__(self, weights: Weights, x: Tensor, control: Control):
        self.weights, self.target = weights, control.target
        self.x = encoder_input(weights, x, control)
        self.rows, self.d_sae = len(x), len(weights["W_enc"])

    def gradients(self, weight: Tensor, low: Tensor | None = None, band: float = 0.0) -> tuple[Weights, Sums]:
        """Gradients of E||x - x_hat||^2 + sum over rows and latents of weight [d_sae] * f, weights held in that term.

        f = z where it is above 0 and above `low` [d_sae] (None: 0). band: width of what counts as near `low`; 0: none.
        """
        terms = weight.numpy(), (torch.zeros_like(weight) if low is None else low).numpy(), band
        grads = {
            name: shared_buffer(f"groups' {name}", (GROUPS, *self.weights[name].shape), self.x.dtype)
            for name in ("W_dec", "W_enc", "W_skip")
            if name in self.weights
        }
        parts = parts_of(self.rows, MICRO_BATCH)
        groups = [parts[first:last] for first, last in parts_of(len(parts), -(-len(parts) // GROUPS))]

        def work(group: int) -> Sums:
            sums = Sums.zeros(self.weights["W_dec"].shape[1], self.d_sae, self.x.numpy().dtype)
            of_group = {name: each[group] for name, each in grads.items()}
            for part in groups[group]:
                self._micro_batch(slice(*part), terms, sums, of_group)
            return sums

        total, *others = run(work, range(len(groups)))
        for other in others:
            total.add(other)
        totals = {name: self._total(each[: len(groups)]) for name, each in grads.items()}
        totals["b_enc"] = torch.from_numpy(total.encoder)
        totals["b_dec"] = torch.from_numpy(total.residual * (2 / self.rows))
        if self.target is None:
            totals["b_dec"] -= torch.mv(self.weights["W_enc"].T, totals["b_enc"])
        return totals, total

    def _micro_batch(self, rows: slice, terms: tuple, sums: Sums, grads: Weights) -> None:
        """Add its part to the gradients of the matrices and to `sums`."""
        (weight, low, band), x, weights = terms, self.x[rows], self.weights
        target = x if self.target is None else decoder_target(weights, x, self.target[rows])
        kind = self.x.numpy().dtype.type
        names = ("z", "latents", "dots" if band else "z")  # z is not needed any more, unless near ones are counted
        z, latents, dots = (own_buffer(f"dense {name}", (MICRO_BATCH, self.d_sae), x.dtype)[: len(x)] for name in names)
        torch.addmm(weights["b_enc"], x, weights["W_enc"].T, out=z)
        activate(z.numpy(), low, latents.numpy(), sums.latents, sums.active, sums.smallest)
        residual = torch.addmm(target, latents, weights["W_dec"], beta=-1)
        torch.mm(residual, weights["W_dec"].T, out=dots)
        if band:
            near(z.numpy(), dots.numpy(), low, kind(band / 2), sums.near, sums.near_dots)
        mask(dots.numpy(), latents.numpy(), kind(2 / self.rows), weight, sums.encoder)
        grads["W_dec"].addmm_(latents.T, residual, beta=float(sums.begun), alpha=2 / self.rows)
        grads["W_enc"].addmm_(dots.T, x, beta=float(sums.begun))
        if "W_skip" in grads:
            grads["W_skip"].addmm_(residual.T, x, beta=float(sums.begun), alpha=2 / self.rows)
        sums.residual += residual.sum(0).numpy()
        sums.squares += float(residual.square().sum())
        sums.begun = True

    def _total(self, each: Tensor) -> Tensor:
        """Sum over the first dimension, into its first element."""

        def add(rows: tuple[int, int]) -> None:
            part = slice(*rows)
            for other in each[1:]:
                each[0, part] += other[part]

        run(add, parts_of(each.shape[1], -(-each.shape[1] // GROUPS)))
        return each[0]

    def measured(self, sums: "Sums", sparsity: float | Tensor) -> Measured:
        active = sums.active > 0
        reconstruction = sums.squares / self.rows
        return Measured(
            loss=sum(floats([reconstruction, sparsity])),
            reconstruction=reconstruction,
            sparsity=sparsity,
            l0=sums.l0(self.rows),
            fired=torch.from_numpy(active),
            smallest=float(sums.smallest.min()) if active.any() else 0.0,
        ).plain()
