"""Matching pursuit on CPU: k latents of a row one after the other, and the gradient back through all of them.

A row stays in cache from its first latent to its last. What every latent of every row adds to the decoder's gradient is kept,
and then summed by latent, each by one thread, so any number of threads gives the same bits.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sae_atlas.kernels import loops
from sae_atlas.kernels.loops import LANES, kernel
from sae_atlas.kernels.threads import own_buffer, parts_of, run, shared_buffer

ROWS = 64  # whose products with all latents stay in cache
RANGES = 16  # of latents, shared out over the threads


@kernel
def take(line, others, value):
    """line [d_sae] -= value * others; returns where it is largest now, of equal ones the first, or 0 if nothing is above 0."""
    largest, best = line.dtype.type(0), 0
    whole = len(line) // LANES * LANES
    for start in range(0, whole, LANES):
        hits = np.int32(0)
        for i in range(start, start + LANES):
            line[i] -= value * others[i]
            hits += np.int32(line[i] > largest)
        if hits > 0:
            for i in range(start, start + LANES):
                if line[i] > largest:
                    largest, best = line[i], i
    for i in range(whole, len(line)):
        line[i] -= value * others[i]
        if line[i] > largest:
            largest, best = line[i], i
    return best


@kernel
def pursue(left, products, decoder, gram, columns, values, is_new):
    """Take k latents from every row of left [rows, d_in], which becomes what they leave. products [rows, d_sae]: of left with
    the decoder's rows, used up. columns, values, is_new [rows, k]: the latents in order, and which of them is active and was
    not before in its row.
    """
    zero = left.dtype.type(0)
    for row in range(len(left)):
        rest, line = left[row], products[row]
        best = take(line, gram[0], zero)
        for step in range(columns.shape[1]):
            direction, now = decoder[best], best
            value = zero
            for i in range(len(rest)):
                value += rest[i] * direction[i]
            value = max(value, zero)
            for i in range(len(rest)):
                rest[i] -= value * direction[i]
            columns[row, step], values[row, step], is_new[row, step] = now, value, value > zero
            for before in range(step):
                if columns[row, before] == now and values[row, before] > zero:
                    is_new[row, step] = False
            best = take(line, gram[now], value)


@kernel
def go_back(left, slopes, decoder, columns, values, moves):
    """Undo the steps of `pursue`. slopes [rows, d_in]: of the loss by left, at the end by the rows that pursue began with.
    moves [rows * k, d_in]: what every step adds to the gradient of its latent's decoder row.
    """
    zero, k = left.dtype.type(0), columns.shape[1]
    for row in range(len(left)):
        rest, slope = left[row], slopes[row]
        for step in range(k - 1, -1, -1):
            direction, move, value = decoder[columns[row, step]], moves[row * k + step], values[row, step]
            of_value = zero
            if value > zero:
                for i in range(len(rest)):
                    of_value -= slope[i] * direction[i]
            for i in range(len(rest)):
                before = rest[i] + value * direction[i]
                move[i] = of_value * before - value * slope[i]
                slope[i] += of_value * direction[i]
                rest[i] = before


@kernel
def sum_moves(ends, order, moves, sums, first, last):
    """sums [first:last, d_in] of the moves of each latent; ends, order: as loops.transpose gives them."""
    zero = moves.dtype.type(0)
    for latent in range(first, last):
        line = sums[latent]
        for i in range(len(line)):
            line[i] = zero
        for at in range(ends[latent], ends[latent + 1]):
            move = moves[order[at]]
            for i in range(len(line)):
                line[i] += move[i]


def latents(x: Tensor, decoder: Tensor, k: int, gram: Tensor) -> Tensor:
    """[rows, d_sae] of x [rows, d_in], without b_dec; gram: decoder @ decoder.T. Without gradients, and on one thread."""
    left, rows = x.numpy().copy(), len(x)
    columns, values, is_new = _room((rows, k), left.dtype)
    pursue(left, (x @ decoder.T).numpy(), decoder.numpy(), gram.numpy(), columns, values, is_new)
    return x.new_zeros(rows, len(decoder)).scatter_add_(1, torch.from_numpy(columns).long(), torch.from_numpy(values))


def _room(shape: tuple[int, int], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For what `pursue` finds."""
    return np.empty(shape, np.int32), np.empty(shape, dtype), np.empty(shape, np.bool_)


class Pursued:
    """What the steps of a batch found. columns, values, is_new [rows, k]; residuals [rows, d_in]: x - x_hat."""

    def __init__(self, x: Tensor, decoder: Tensor, k: int):
        """x [rows, d_in], without b_dec; decoder [d_sae, d_in], rows of unit norm."""
        self.decoder, self.k, self.d_sae = decoder, k, len(decoder)
        rows = len(x)
        self.parts = parts_of(rows, ROWS)
        self.residuals = shared_buffer("pursuit's residuals", x.shape, x.dtype).copy_(x)
        self.columns, self.values, self.is_new = _room((rows, k), x.numpy().dtype)
        gram = self._gram().numpy()

        def work(part: tuple[int, int]) -> None:
            at = slice(*part)
            left = self.residuals[at]
            products = own_buffer("pursuit's products", (ROWS, self.d_sae), x.dtype)[: len(left)]
            torch.mm(left, decoder.T, out=products)
            entries = (self.columns[at], self.values[at], self.is_new[at])
            pursue(left.numpy(), products.numpy(), decoder.numpy(), gram, *entries)

        run(work, self.parts)

    def _gram(self) -> Tensor:
        gram = shared_buffer("Gram matrix of the decoder", (self.d_sae, self.d_sae), self.decoder.dtype)

        def work(part: tuple[int, int]) -> None:  # half of it, and the other half from that
            rows, others = slice(*part), slice(part[0], None)
            torch.mm(self.decoder[rows], self.decoder[others].T, out=gram[rows, others])
            gram[part[1] :, rows] = gram[rows, part[1] :].T

        run(work, parts_of(self.d_sae, -(-self.d_sae // RANGES)))
        return gram

    def gradients(self, slopes: Tensor) -> dict[str, Tensor]:
        """Of W_dec and b_dec. slopes [rows, d_in]: of the loss by the residuals; used up, as those are."""
        rows, d_in = self.residuals.shape
        moves = shared_buffer("pursuit's moves", (rows * self.k, d_in), slopes.dtype)
        left, decoder = self.residuals.numpy(), self.decoder.numpy()

        def undo(part: tuple[int, int]) -> None:
            at, of_steps = slice(*part), slice(part[0] * self.k, part[1] * self.k)
            go_back(left[at], slopes[at].numpy(), decoder, self.columns[at], self.values[at], moves[of_steps].numpy())

        run(undo, self.parts)
        ends, order = np.zeros(self.d_sae + 1, np.int64), np.empty(rows * self.k, np.int32)
        loops.transpose(np.arange(rows + 1) * self.k, self.columns.reshape(-1), ends, order, np.empty_like(order))
        sums = shared_buffer("gradient of W_dec", self.decoder.shape, slopes.dtype)

        def add_up(part: tuple[int, int]) -> None:
            sum_moves(ends, order, moves.numpy(), sums.numpy(), *part)

        cuts = np.searchsorted(ends, np.linspace(0, len(order), RANGES + 1)[1:-1])
        run(add_up, pairwise([0, *np.minimum(cuts, self.d_sae).tolist(), self.d_sae]))
        return {"W_dec": sums, "b_dec": -slopes.sum(0)}
