"""The exact step on a GPU: as cpu.py, with the loops of gpu_loops.py (Triton) between products by torch.

The host never waits inside a step: the number of entries stays on the device, and arrays are larger than expected
(Control.entry_capacity). If they are too small the loss is NaN and the step must be repeated, waiting. Matrix products and
gathered values are in `products`, bfloat16 unless a caller says float32; weights, sums and Adam stay in the weights' dtype.
Entries are sorted by latent (stable), each latent is summed by one program: no float atomics.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import torch
import triton
from torch import Tensor

from sae_atlas.kernels import gpu_loops as loops
from sae_atlas.kernels import reference
from sae_atlas.kernels.measured import Control, Measured, Weights, decoder_target, encoder_input
from sae_atlas.kernels.pull import pulled

# Active fraction above which the dense step should be the faster one: by the bandwidth of a card's memory against its
# bfloat16 products, 6 d_in d_sae FLOP saved per token against 8 to 12 gathered bytes per entry and input dimension.
DENSE_ABOVE = 0.02
ASYNCHRONOUS = True
GUESS = 0.8  # as in cpu.py
FEWEST = 16  # entries per row that always fit
SCAN = 1024  # latents of a row compared together
FLAT = 1024  # values of a weight without unit rows in one program
TILE = 4096  # gathered values in one piece
PRODUCTS = {"bfloat16": torch.bfloat16, "float32": None}  # None: the weights' own


def dense_above(architecture: ModuleType, d_in: int) -> float:
    """As cpu.dense_above; here it is the same for all that have a sparse step."""
    return math.inf if getattr(architecture, "BY_AUTOGRAD_ON_GPU", False) else DENSE_ABOVE


def gradients(
    architecture: ModuleType, weights: Weights, x: Tensor, recipe, control: Control
) -> tuple[Weights, Measured]:
    """Gradient of the loss of `architecture` (a module of sae_atlas/saes) on the scaled batch x [batch, d_in]."""
    if getattr(architecture, "BY_AUTOGRAD_ON_GPU", False):
        return reference.gradients(architecture, weights, x, recipe, control)
    products = PRODUCTS[control.products]
    if control.pull is None and control.density > DENSE_ABOVE:
        lower = torch.autocast(x.device.type, products) if products else nullcontext()
        with lower:
            return reference.gradients(architecture, weights, x, recipe, control)
    return architecture.sparse_gradients(Step(weights, x, control, products), weights, recipe, control)


@dataclass(frozen=True)
class Entries:
    """Active entries of a batch, CSR, in arrays that may be longer; beyond starts[-1] they are zeros."""

    starts: Tensor  # [rows + 1] int32
    rows: Tensor  # [room] int32
    columns: Tensor  # [room] int32 latents, ascending within a row
    values: Tensor  # [room] pre-activations
    d_sae: int

    @cached_property
    def real(self) -> Tensor:
        """[room] bool."""
        return torch.arange(len(self.columns), device=self.columns.device) < self.starts[-1]

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """ends [d_sae + 1] and order [room]: the entries of a latent are order[ends[latent]:ends[latent + 1]]."""
        keys, order = torch.where(self.real, self.columns, self.d_sae).sort(stable=True)
        ends = torch.searchsorted(keys, torch.arange(self.d_sae + 1, device=keys.device, dtype=keys.dtype))
        return ends.int(), order.int()


@dataclass(frozen=True)
class Decoded:
    """What loops.decode gives, for the whole batch."""

    residuals: Tensor  # [rows, groups, d_out]
    dots: Tensor  # [room]
    groups_of: Tensor  # [d_sae] int32
    squared_error_of_prefixes: Tensor  # sum over prefixes, mean over tokens
    squared_error: Tensor  # of all latents, mean over tokens


class Step:
    """One batch on its way through the sparse step; the same methods as cpu.Step."""

    def __init__(self, weights: Weights, x: Tensor, control: Control, products: torch.dtype | None):
        self.weights, self.control = weights, control
        self.lower = (lambda tensor: tensor.to(products)) if products else (lambda tensor: tensor)
        self.x = encoder_input(weights, x, control)
        self.target = self.x if control.target is None else decoder_target(weights, x, control.target)
        self.rows, self.d_in = x.shape
        self.d_sae, self.d_out = weights["W_dec"].shape
        self.micro_batches = [(0, self.rows)]
        self.fits: Tensor | None = None  # whether all entries fitted; None: the host chose the sizes
        self.d_size, self.out_size = (triton.next_power_of_2(d) for d in (self.d_in, self.d_out))
        self.tile = max(1, TILE // max(self.d_size, self.out_size))  # entries

    @cached_property
    def z(self) -> Tensor:
        """The encoder product [rows, d_sae] without its bias, which is added in the weights' dtype."""
        return self.lower(self.x) @ self.lower(self.weights["W_enc"]).T

    @cached_property
    def decoder(self) -> Tensor:
        return self.lower(self.weights["W_dec"]).contiguous()

    def above(self, threshold: float | Tensor, bias: str = "b_enc") -> Entries:
        """Entries above `threshold`, one number (maybe on the device) or one per latent."""
        expected = max(FEWEST, self.control.density * self.d_sae) * self.rows
        return self._above(threshold, bias, expected)

    def largest(self, k: int) -> Entries:
        """The k largest positive entries of each row; of equal ones the first."""
        edges, (spare, counts) = self._new(self.rows), self._new(2, self.rows, dtype=torch.int32)
        size, bits = triton.next_power_of_2(self.d_sae), 8 * edges.element_size() - 1
        loops.find_edges[self.rows,](
            self.z, self.weights["b_enc"], self.d_sae, k, edges, spare, counts, size, bits, num_warps=_warps(size)
        )
        return self._collect("b_enc", edges, edges, spare, counts, min(k, self.d_sae) * self.rows, by_row=True)

    def largest_of_batch(self, k: int) -> Entries:
        """The k * rows largest positive entries of the batch; of equal ones the first. Candidates as in cpu.py."""
        wanted = k * self.rows
        waiting = self.control.entry_capacity is None
        for guess in (GUESS, GUESS / 4, 0.0) if waiting else (GUESS,):
            entries = self._above(guess * self.control.smallest, "b_enc", wanted)
            if not waiting:
                self._require(entries.starts[-1] >= wanted)
            elif entries.starts[-1] >= wanted:
                break
        chosen = entries.values.sort(descending=True, stable=True).indices[:wanted].sort().values
        is_chosen = torch.zeros_like(entries.real).index_fill_(0, chosen, True) & entries.real
        ends = torch.cat([is_chosen.new_zeros(1, dtype=torch.int32), is_chosen.cumsum(0, dtype=torch.int32)])
        parts = (each[chosen] for each in (entries.rows, entries.columns, entries.values))
        return Entries(ends[entries.starts], *parts, self.d_sae)

    def decode(self, entries: Entries, latents: Tensor, bounds: list[int] | None = None) -> Decoded:
        """Reconstruct from `latents` [room]; bounds: ends of nested prefixes (Matryoshka), else one group."""
        groups, starts, device = len(bounds or [0]), entries.starts, self.x.device
        groups_of = torch.zeros(self.d_sae, dtype=torch.int32, device=device)
        for bound in (bounds or [])[:-1]:
            groups_of[bound:] += 1
        if groups > 1:
            keys = entries.rows * groups + groups_of.index_select(0, entries.columns)
            keys = torch.where(entries.real, keys, self.rows * groups)
            every_start = torch.arange(self.rows * groups + 1, device=device, dtype=keys.dtype)
            starts = torch.searchsorted(keys, every_start).int()
        residuals, dots = self._new(self.rows, groups, self.d_out), torch.zeros_like(latents)
        every, whole = self._new(2, self.rows)
        loops.decode[self.rows,](
            self.target, self.decoder, starts, entries.columns, latents, len(latents), residuals, dots, every, whole,
            self.d_out, groups, self.tile, self.out_size,
        )  # fmt: skip
        return Decoded(residuals, dots, groups_of, every.sum() / self.rows, whole.sum() / self.rows)

    def pulled(self, entries: Entries, decoded: Decoded, scale: float) -> Decoded:
        """`decoded` with the gradient of control.pull in it, if there is one (pull.py)."""
        return pulled(self, entries, decoded, entries.rows, scale)

    def accumulate(self, entries: Entries, decoded: Decoded, latents: Tensor, encoder: Tensor, scale: float) -> Weights:
        """Gradients of the weights all have. scale * residual is d loss / d x_hat; encoder [room] is d loss / d z."""
        grads = {name: torch.empty_like(self.weights[name]) for name in ("W_dec", "W_enc", "b_enc")}
        factor = self._new(1).fill_(scale)
        residuals, groups = decoded.residuals, decoded.residuals.shape[1]
        loops.accumulate[self.d_sae,](
            *entries.by_latent, entries.rows, decoded.groups_of, factor, self.lower(self.x),
            self.lower(residuals), latents, encoder, *grads.values(), self.d_in, self.d_out, groups, self.tile,
            self.d_size, self.out_size,
        )  # fmt: skip
        grads["b_dec"] = residuals[:, 0].sum(0) * factor
        if self.control.target is None:
            grads["b_dec"] -= torch.mv(self.weights["W_enc"].T, grads["b_enc"])
        if "W_skip" in self.weights:
            product = self.lower(residuals[:, 0]).T @ self.lower(self.x)
            grads["W_skip"] = product.to(self.x.dtype) * factor
        return grads

    def sum_by_latent(self, entries: Entries, values: Tensor) -> Tensor:
        """[d_sae]: values [room] summed by latent."""
        sums = self._new(self.d_sae)
        loops.sum_segments[self.d_sae,](*entries.by_latent, values.to(sums.dtype).contiguous(), sums, 32, num_warps=1)
        return sums

    def dead(self) -> tuple[Tensor, Tensor | None]:
        """Indices of the dead latents, and which of these are real (None: all)."""
        dead, room = self.control.dead, self.control.dead_capacity
        if dead is None or (self.control.entry_capacity is not None and not room):
            return torch.empty(0, dtype=torch.int64, device=self.x.device), None
        if self.control.entry_capacity is None:
            return dead.nonzero()[:, 0], None
        self._require(dead.sum() <= room)
        candidates = dead.int().sort(descending=True, stable=True).indices[:room]
        return candidates, dead[candidates]

    def measured(
        self, entries: Entries, active: Tensor | None, reconstruction: Tensor, sparsity=0.0, more=0.0
    ) -> Measured:
        """active [room] bool: the entries that count as active latents; None: all. Numbers stay on the device."""
        active = entries.real if active is None else active & entries.real
        loss = reconstruction + sparsity + more
        smallest = torch.where(active, entries.values, torch.inf).amin() if len(active) else loss * 0
        return Measured(
            loss=loss if self.fits is None else torch.where(self.fits, loss, torch.nan),
            reconstruction=reconstruction,
            sparsity=sparsity,
            l0=active.sum().double() / self.rows,
            fired=self.sum_by_latent(entries, active) > 0,
            smallest=torch.where(smallest.isinf(), 0, smallest),
        )

    def _above(self, threshold: float | Tensor, bias: str, expected: float) -> Entries:
        thresholds = self._new(self.d_sae)
        thresholds.copy_(threshold) if isinstance(threshold, Tensor) else thresholds.fill_(threshold)
        counts = self._new(self.rows, dtype=torch.int32)
        loops.count_above[self.rows,](self.z, self.weights[bias], thresholds, self.d_sae, counts, SCAN)
        return self._collect(bias, thresholds, counts, counts, counts, expected, by_row=False)

    def _collect(
        self, bias: str, thresholds: Tensor, edges: Tensor, spare: Tensor, counts: Tensor, expected: float, by_row: bool
    ) -> Entries:
        starts = torch.zeros(self.rows + 1, dtype=torch.int32, device=counts.device)
        torch.cumsum(counts, 0, out=starts[1:])
        if by_row:
            room = int(expected)
        elif self.control.entry_capacity is None:
            room = int(starts[-1])
        else:
            room = min(int(expected * self.control.entry_capacity), self.rows * self.d_sae)
            self._require(starts[-1] <= room)
        rows, columns = torch.zeros(2, room, dtype=torch.int32, device=counts.device)
        values = torch.zeros(room, dtype=self.x.dtype, device=counts.device)
        loops.collect[self.rows,](
            self.z, self.weights[bias], thresholds, edges, spare, self.d_sae, starts, room, rows, columns, values,
            SCAN, by_row,
        )  # fmt: skip
        return Entries(starts.clamp(max=room), rows, columns, values, self.d_sae)

    def _require(self, condition: Tensor) -> None:
        self.fits = condition if self.fits is None else self.fits & condition

    def _new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(shape, dtype=dtype or self.x.dtype, device=self.x.device)


def update(weights: Weights, grads: Weights, moments, recipe, step: int, learning_rate: float) -> Tensor:
    """One step of Adam, in place, as reference.update; the norm it returns stays on the device."""
    parts, squares = [], []
    for name, weight in weights.items():
        unit_norm = name == "W_dec"
        width = weight.shape[1] if unit_norm else FLAT
        rows = triton.cdiv(weight.numel(), width)
        square, along = weight.new_empty(2, rows)
        sizes = (width, weight.numel(), unit_norm, triton.next_power_of_2(width))
        grad = grads[name].contiguous()
        loops.measure_rows[rows,](grad, weights["W_dec"], square, along, *sizes)
        parts.append((rows, (weight, grad, moments[0][name], moments[1][name], along), sizes))
        squares.append(square)
    norm = torch.cat(squares).double().sum().sqrt()
    rate1, rate2 = recipe.adam_betas
    clip = torch.where(norm < torch.inf, (recipe.clip / norm).clamp(max=1.0), torch.nan)
    others = (rate1, rate2, learning_rate / (1 - rate1**step), 1 / (1 - rate2**step), reference.EPSILON)
    numbers = weights["W_dec"].new_empty(6)
    numbers[0] = clip
    for position, number in enumerate(others, 1):
        numbers[position] = number
    for rows, arrays, sizes in parts:
        loops.adam_rows[rows,](*arrays, numbers, *sizes)
    return norm


def compiled() -> bool:
    """False: Triton keeps its own cache of compiled kernels and does not report its use."""
    return False


def _warps(size: int) -> int:
    """Of a program that holds `size` values: 32 threads each, no more than 64 values a thread where that is possible."""
    return min(32, max(4, size // 2048))
