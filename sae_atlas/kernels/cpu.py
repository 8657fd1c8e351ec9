"""The exact step on CPU: the dense gradient, computed from the active entries alone (numba and MKL).

The encoder product is dense, in int8 first where that is faster (screen.py); its result is compacted micro-batch by
micro-batch while it is in cache. Decoding, both weight gradients and the encoder's gradient then touch active entries
only: the gradient of an inactive latent is exactly zero. Threads take micro-batches and ranges of latents; no sum is
split between them, so any number of threads gives the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from sae_atlas.kernels import adam, dense, loops, pursuit, reference, screen
from sae_atlas.kernels.measured import Control, Measured, Weights, decoder_target, encoder_input, floats
from sae_atlas.kernels.pull import pulled
from sae_atlas.kernels.threads import MICRO_BATCH, own_buffer, parts_of, run, shared_buffer

ASYNCHRONOUS = False
MOST_RANGES = 16  # of latents, shared out over the threads
RANGE_VALUES = 2**16  # values of a weight in a range at least: handing less to a thread takes longer than the work
GUESS = 0.8  # of the smallest active latent so far: above it lie a few more than k x batch candidates

# Active fractions above which the dense step is the faster one, as measured at d_in 64 and 576 (2 threads). Not measured
# at start: two runs that switch at other steps differ in their last bits, and a resumed run must not.
DENSE_ABOVE = 0.08  # dense.py: products and gathered rows both grow with d_in, so it is one number
AUTOGRAD_ABOVE, PER_DIMENSION = 0.14, 7.0  # autograd writes and reads matrices of d_sae whatever d_in is


def dense_above(architecture: ModuleType, d_in: int) -> float:
    """Active fraction in the step before above which a step of `architecture` is dense."""
    return DENSE_ABOVE if hasattr(architecture, "dense_gradients") else AUTOGRAD_ABOVE + PER_DIMENSION / d_in


def gradients(
    architecture: ModuleType, weights: Weights, x: Tensor, recipe, control: Control
) -> tuple[Weights, Measured]:
    """Gradient of the loss of `architecture` (a module of sae_atlas/saes) on the scaled batch x [batch, d_in]."""
    if control.pull is None and control.density > dense_above(architecture, x.shape[1]):  # a base model takes longer
        if hasattr(architecture, "dense_gradients") and control.power == 1:  # its pass has one slope per latent
            return architecture.dense_gradients(dense.DenseStep(weights, x, control), weights, recipe, control)
        grads, measured = reference.gradients(architecture, weights, x, recipe, control)
        return grads, measured.plain()
    return architecture.sparse_gradients(Step(weights, x, control), weights, recipe, control)


@dataclass(frozen=True)
class Entries:
    """Active entries of a batch, CSR."""

    starts: np.ndarray  # [rows + 1]
    columns: Tensor  # [entries] latents, ascending within a row
    values: Tensor  # [entries] pre-activations


class Whole:
    """Active entries of a batch, from the whole encoder product of a micro-batch while it is in cache."""

    def __init__(self, encoder: Tensor, x: Tensor):
        """encoder [d_sae, d_in], x [rows, d_in]."""
        self.transposed, self.x = encoder.T, x

    def above(self, part: tuple[int, int], bias: Tensor, low: Tensor, *out) -> int:
        """Entries of rows [first, last) above `low` [d_sae]; out: counts, columns, values. Returns how many."""
        return loops.collect_above(self._product(part, bias), low.numpy(), *out)

    def largest(self, part: tuple[int, int], bias: Tensor, k: int, *out) -> int:
        """The k largest positive entries of each of the rows [first, last). Returns how many."""
        return loops.collect_largest(self._product(part, bias), k, *out)

    def _product(self, part: tuple[int, int], bias: Tensor) -> np.ndarray:
        x = self.x[slice(*part)]
        z = own_buffer("z", (MICRO_BATCH, len(bias)), x.dtype)[: len(x)]
        return torch.addmm(bias, x, self.transposed, out=z).numpy()


class Step:
    """One batch on its way through the sparse step; the same methods as gpu.Step."""

    def __init__(self, weights: Weights, x: Tensor, control: Control):
        self.weights, self.control = weights, control
        self.arrays = {name: weight.numpy() for name, weight in weights.items()}
        self.x = encoder_input(weights, x, control)
        self.rows, self.d_in = x.shape
        self.d_sae, self.d_out = weights["W_dec"].shape
        self.micro_batches = parts_of(self.rows, MICRO_BATCH)
        self.target = self.x if control.target is None else self._target(control.target)

    def _target(self, target: Tensor) -> Tensor:
        parts = (slice(*part) for part in self.micro_batches)
        return torch.cat(run(lambda rows: decoder_target(self.weights, self.x[rows], target[rows]), parts))

    def above(self, threshold: float | Tensor, bias: str = "b_enc") -> Entries:
        """Entries above `threshold`, one number or one per latent."""
        low = torch.as_tensor(threshold, dtype=self.x.dtype).expand(self.d_sae).contiguous()
        return self._entries(self.encoded.above, self.weights[bias], low)

    def largest(self, k: int) -> Entries:
        """The k largest positive entries of each row; of equal ones the first."""
        return self._entries(self.encoded.largest, self.weights["b_enc"], k)

    def largest_of_batch(self, k: int) -> Entries:
        """The k * rows largest positive entries of the batch; of equal ones the first.

        Candidates above a guess, lowered until there are enough; of them the exact ones.
        """
        for guess in (GUESS * self.control.smallest, GUESS / 4 * self.control.smallest, 0.0):
            entries = self.above(guess)
            surplus = len(entries.values) - k * self.rows
            if surplus >= 0:
                break
        if surplus <= 0:
            return entries
        values = entries.values.numpy()
        edge = np.partition(values, surplus)[surplus]
        chosen = values > edge
        equal = np.flatnonzero(values == edge)
        chosen[equal[: k * self.rows - chosen.sum()]] = True
        ends, chosen_entries = np.concatenate([[0], np.cumsum(chosen)]), torch.from_numpy(chosen)
        return Entries(ends[entries.starts], entries.columns[chosen_entries], entries.values[chosen_entries])

    @cached_property
    def encoded(self) -> "Whole | screen.Screened":
        encoder = self.weights["W_enc"]
        kind = screen.Screened if screen.is_faster(encoder, self.control.density) else Whole
        return kind(encoder, self.x)

    def _entries(self, collect: Callable, *arguments) -> Entries:
        """Entries by collect(rows, *arguments, counts, columns, values) -> how many, micro-batch by micro-batch."""

        def work(part: tuple[int, int]):
            first, last = part
            columns = own_buffer("columns", MICRO_BATCH * self.d_sae, torch.int32).numpy()
            values = own_buffer("values", MICRO_BATCH * self.d_sae, self.x.dtype).numpy()
            counts = np.empty(last - first, np.int64)
            number = collect(part, *arguments, counts, columns, values)
            return counts, columns[:number].copy(), values[:number].copy()

        counts, columns, values = zip(*run(work, self.micro_batches), strict=True)
        starts = np.zeros(self.rows + 1, np.int64)
        np.cumsum(np.concatenate(counts), out=starts[1:])
        return Entries(starts, *(torch.from_numpy(np.concatenate(parts)) for parts in (columns, values)))

    def decode(self, entries: Entries, latents: Tensor, bounds: list[int] | None = None) -> "Decoded":
        """Reconstruct from `latents` [entries]; bounds: ends of nested prefixes (Matryoshka), else one group."""
        bounds = np.array(bounds or [self.d_sae])
        target, decoder = self.target.numpy(), self.arrays["W_dec"]
        residuals = shared_buffer("residuals", (self.rows, len(bounds), self.d_out), self.x.dtype)
        dots = torch.empty_like(entries.values)
        totals = np.zeros((len(self.micro_batches), self.d_out), target.dtype)

        def work(number: int):
            return loops.decode(
                target, decoder, entries.starts, entries.columns.numpy(), latents.numpy(), bounds, residuals.numpy(),
                dots.numpy(), totals[number], *self.micro_batches[number],
            )  # fmt: skip

        squares = np.array(run(work, range(len(self.micro_batches))))
        every, whole = squares.sum(0) / self.rows
        return Decoded(residuals, dots, bounds, totals.sum(0), float(every), float(whole))

    def pulled(self, entries: Entries, decoded: "Decoded", scale: float) -> "Decoded":
        """`decoded` with the gradient of control.pull in it, if there is one (pull.py)."""
        if self.control.pull is None:
            return decoded
        rows = torch.from_numpy(np.repeat(np.arange(self.rows), np.diff(entries.starts)))
        decoded = pulled(self, entries, decoded, rows, scale)
        return replace(decoded, total=decoded.residuals[:, 0].sum(0).numpy())

    def accumulate(
        self, entries: Entries, decoded: "Decoded", latents: Tensor, encoder: Tensor, scale: float
    ) -> Weights:
        """Gradients of the weights all have. scale * residual is d loss / d x_hat; encoder [entries] is d loss / d z."""
        names = ("W_dec", "W_enc", "b_enc")
        grads = {name: shared_buffer(f"gradient of {name}", self.weights[name].shape, self.x.dtype) for name in names}
        ends = np.zeros(self.d_sae + 1, np.int64)
        order, rows = np.empty(len(latents), np.int32), np.empty(len(latents), np.int32)
        loops.transpose(entries.starts, entries.columns.numpy(), ends, order, rows)
        group_of = np.searchsorted(decoded.bounds, np.arange(self.d_sae), side="right").astype(np.int32)
        scale = self.x.numpy().dtype.type(scale)
        inputs, arrays = self.x.numpy(), tuple(grads[name].numpy() for name in names)
        ranges = _ranges(self.weights["W_dec"])
        cuts = np.searchsorted(ends, np.linspace(0, len(latents), ranges + 1)[1:-1])
        cuts = [0, *np.minimum(cuts, self.d_sae).tolist(), self.d_sae]
        residuals, latents, encoder = (each.numpy() for each in (decoded.residuals, latents, encoder))

        def work(part: tuple[int, int]):
            loops.accumulate(ends, order, rows, scale, inputs, group_of, residuals, latents, encoder, arrays, *part)

        run(work, pairwise(cuts))
        grads["b_dec"] = torch.from_numpy(decoded.total * scale)
        if self.control.target is None:
            grads["b_dec"] -= torch.mv(self.weights["W_enc"].T, grads["b_enc"])
        if "W_skip" in self.weights:
            grads["W_skip"] = self._skip_gradient(decoded.residuals[:, 0], float(scale))
        return grads

    def pursue(self, k: int) -> tuple[Weights, Measured]:
        """Gradient and measurements of matching pursuit with k latents a row (pursuit.py)."""
        pursued = pursuit.Pursued(self.x, self.weights["W_dec"], k)
        error = pursued.residuals
        squared = float(np.square(error.numpy(), dtype=np.float64).sum() / self.rows)
        slopes = error * (2 / self.rows)
        if self.control.pull is not None:
            slopes -= self.control.pull(-error)
        grads = pursued.gradients(slopes)
        columns = torch.from_numpy(pursued.columns[pursued.is_new])
        entries = Entries(np.empty(0), columns, torch.from_numpy(pursued.values[pursued.is_new]))
        return grads, self.measured(entries, None, squared)

    def _skip_gradient(self, residuals: Tensor, scale: float) -> Tensor:
        """scale * residuals^T x [d_out, d_in]; residuals [rows, d_out]."""
        gradient = shared_buffer("gradient of W_skip", (self.d_out, self.d_in), self.x.dtype)

        def work(part: tuple[int, int]) -> None:
            rows = slice(*part)
            torch.mm(residuals[:, rows].T, self.x, out=gradient[rows]).mul_(scale)

        run(work, parts_of(self.d_out, -(-self.d_out // MOST_RANGES)))
        return gradient

    def sum_by_latent(self, entries: Entries, values: Tensor) -> Tensor:
        """[d_sae]: values [entries] summed by latent."""
        sums = np.bincount(entries.columns.numpy(), values.numpy(), self.d_sae)
        return torch.from_numpy(sums).to(self.x.dtype)

    def dead(self) -> tuple[Tensor, Tensor | None]:
        """Indices of the dead latents, and which of these are real (None: all)."""
        dead = self.control.dead
        return (torch.empty(0, dtype=torch.int64) if dead is None else dead.nonzero()[:, 0]), None

    def measured(
        self, entries: Entries, active: Tensor | None, reconstruction, sparsity: float | Tensor = 0.0, more=0.0
    ) -> Measured:
        """active [entries] bool: the entries that count as active latents; None: all."""
        columns, values = entries.columns, entries.values
        if active is not None:
            columns, values = columns[active], values[active]
        fired = torch.from_numpy(np.bincount(columns.numpy(), minlength=self.d_sae) > 0)
        return Measured(
            loss=sum(floats([reconstruction, sparsity, more])),
            reconstruction=reconstruction,
            sparsity=sparsity,
            l0=len(columns) / self.rows,
            fired=fired,
            smallest=values.min() if len(values) else 0.0,
        ).plain()


@dataclass(frozen=True)
class Decoded:
    """Results of loops.decode for the whole batch."""

    residuals: Tensor  # [rows, groups, d_out]
    dots: Tensor  # [entries]
    bounds: np.ndarray  # [groups]
    total: np.ndarray  # [d_out]
    squared_error_of_prefixes: float  # sum over prefixes, mean over tokens
    squared_error: float  # of all latents, mean over tokens


def update(weights: Weights, grads: Weights, moments, recipe, step: int, learning_rate: float) -> float:
    """One step of Adam, in place, as reference.update; every weight is read and written once."""
    parts = []
    for name, weight in weights.items():
        arrays = [each.numpy() for each in (weight, grads[name], moments[0][name], moments[1][name])]
        arrays = [each if each.ndim == 2 else each.reshape(1, -1) for each in arrays]
        rows, ranges = len(arrays[0]), _ranges(weight)
        square, along = np.empty(rows, arrays[0].dtype), np.empty(rows, arrays[0].dtype)
        cuts = sorted({rows * part // ranges for part in range(ranges + 1)})
        parts += [(name == "W_dec", arrays, square, along, *cut) for cut in pairwise(cuts)]

    def measure(part):
        unit_norm, (weight, grad, *_), square, along, first, last = part
        adam.measure_rows(grad, weight if unit_norm else weight[:0], square, along, first, last)
        return square[first:last].sum(dtype=np.float64)

    norm = float(np.sqrt(sum(run(measure, parts))))
    if not norm < np.inf:
        return norm
    first_rate, second_rate = recipe.adam_betas
    clip = min(1.0, recipe.clip / norm) if norm else 1.0
    numbers = (clip, first_rate, second_rate, learning_rate / (1 - first_rate**step), 1 / (1 - second_rate**step))

    def move(part):
        unit_norm, arrays, _, along, first, last = part
        adam.adam_rows(*arrays, along, unit_norm, numbers, first, last)

    run(move, parts)
    return norm


def _ranges(weight: Tensor) -> int:
    return min(MOST_RANGES, max(1, weight.numel() // RANGE_VALUES))


def compiled() -> bool:
    """Whether this process had to compile a kernel, which takes seconds, and is done once per machine and version."""
    kernels = [
        each for room in (loops, screen, dense, adam, pursuit) for each in vars(room).values() if hasattr(each, "stats")
    ]
    return any(sum(each.stats.cache_misses.values()) for each in kernels)
