"""The encoder product in int8, and the same active entries: on CPUs that multiply int8 four times as fast as float32.

The rows of the batch and of the encoder are rounded to multiples of a step each (their largest value / 127). The product
of the rounded ones, which is exact in int32, gives every pre-activation to within a margin; those that may be active are
computed again in float32, and only these are compared. Their values are those of a float32 product but for the order of
its sum, so the last bits depend on whether the CPU screens, as they do on its library of matrix products.

For z = x . w with x = x' + a and w = w' + b, the error of x' . w' is a . w + x' . b. Rounding errors are noise of a known
size beside what they are multiplied with, so a . w has the standard deviation |a| |w| / sqrt(d_in): the margin is SIGMAS
of it, and never more than |a| |w|, which is Cauchy's and Schwarz's bound. Where many values of a vector are rounded to 0
(one value is large, and the rest small) the errors are those values and no noise, and where most errors have one sign (the
values are alike) they add up: there the bound itself is the margin.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from sae_atlas.kernels.loops import SAMPLE, collect_row, follow, keep_largest, kernel, kth_largest
from sae_atlas.kernels.threads import MICRO_BATCH, own_buffer, parts_of, run, shared_buffer

LEVELS = 127
SIGMAS = 8.0  # of the noise: beyond it lies 1 entry in 10^15
LOST = 8  # one value in so many may be rounded to 0, for the errors to be noise: theirs are the values themselves
EPSILON = 1e-6  # of float32's own sums, relative
ENCODER_ROWS = 512  # rounded by a thread at a time
BELOW = 0.025  # active fraction under which it is faster than the whole product: what is computed again grows with it
FROM = 192  # dimensions: of shorter vectors the margins are wide, and the product is a small part of the step


@cache
def available() -> bool:
    """Whether this CPU multiplies int8 by instructions that sum in int32 (AVX-512 VNNI), and torch uses them.

    ONEDNN_MAX_CPU_ISA can keep torch from them: the instructions it takes then saturate, and the products are wrong.
    """
    if not torch.cpu.get_capabilities().get("avx512_vnni", False):
        return False
    largest = torch.full((FROM, FROM), LEVELS, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest) == FROM * LEVELS**2).all())


def is_faster(encoder: Tensor, density: float) -> bool:
    """Whether screening is faster than the whole product with encoder [d_sae, d_in], where so many latents are active."""
    return density < BELOW and encoder.shape[1] >= FROM and encoder.dtype == torch.float32 and available()


@kernel
def round_rows(matrix, rounded, steps, norms, errors, first, last):
    """Rows [first, last) of matrix in int8, with, per row, the step, a bound of the norm, and the size of the errors.

    errors: what is to be multiplied with the other vector's norm to make a margin.
    """
    n = matrix.shape[1]
    # The bits of floats that are not negative are in the order of the floats, and integers have a vector maximum.
    largest = steps.view(np.int32)
    for row in range(first, last):
        line, out, bits = matrix[row], rounded[row], matrix[row].view(np.int32)
        top = np.int32(0)
        for i in range(n):
            top = max(top, bits[i] & np.int32(0x7FFFFFFF))
        largest[row] = top
        step = steps[row] / np.float32(LEVELS)
        inverse = np.float32(1) / step if step > 0 else np.float32(0)
        for i in range(n):
            out[i] = np.int8(np.int32(np.rint(line[i] * inverse)))
        squares, lost, zeros = np.float32(0), np.float32(0), np.int32(0)
        sum_of_errors, sum_of_sizes = np.float32(0), np.float32(0)
        for i in range(n):
            zeros += np.int32(out[i] == 0)
            error = line[i] - np.float32(out[i]) * step
            squares += line[i] * line[i]
            lost += error * error
            sum_of_errors += error
            sum_of_sizes += abs(error)
        size, norm = np.sqrt(lost), np.sqrt(squares)
        share = min(np.float32(1), np.float32(SIGMAS) / np.sqrt(np.float32(n)))
        if LOST * zeros > n or abs(sum_of_errors) > share * sum_of_sizes:
            share = np.float32(1)
        steps[row], norms[row], errors[row] = step, norm + size, share * size + np.float32(EPSILON) * norm


@kernel
def upper_bounds(products, step, norm, error, steps, norms, errors, base, out):
    """out [d_sae]: base plus what each product of a row is at most, from its int8 products."""
    for i in range(len(out)):
        out[i] = np.float32(products[i]) * (step * steps[i]) + error * norms[i] + norm * errors[i] + base[i]


@kernel
def pre_activation(x, encoder, bias, latent):
    total = np.float32(0)
    weights = encoder[latent]
    for i in range(len(x)):
        total += x[i] * weights[i]
    return total + bias[latent]


@kernel
def collect_above(products, x, encoder, bias, rows, latents, low, counts, columns, values):
    """Entries of x @ encoder.T + bias above `low` [d_sae]; counts [rows]. Returns how many.

    products [rows, d_sae] int32; rows, latents: (steps, norms, errors) of the rows of x and of the encoder.
    """
    high, base = np.empty(len(bias), np.float32), bias - low
    at = 0
    for row in range(len(x)):
        upper_bounds(products[row], rows[0][row], rows[1][row], rows[2][row], *latents, base, high)
        end = collect_row(high, np.float32(0), columns, values, at)
        first = at
        for i in range(first, end):
            latent = columns[i]
            value = pre_activation(x[row], encoder, bias, latent)
            if value > low[latent]:
                columns[at], values[at] = latent, value
                at += 1
        counts[row] = at - first
    return at


@kernel
def collect_largest(products, x, encoder, bias, rows, latents, k, counts, columns, values):
    """The k largest positive entries of each row; of equal ones the first. Returns how many.

    Any k entries tell what the k-th largest is at least; those that cannot be above it are not computed.
    """
    n = len(bias)
    high, exact, scratch = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    zero, infinite, guess = np.float32(0), np.float32(np.inf), np.float32(0)
    at = 0
    for row in range(len(x)):
        upper_bounds(products[row], rows[0][row], rows[1][row], rows[2][row], *latents, bias, high)
        size = np.sqrt(np.square(high[:SAMPLE]).sum() / min(n, SAMPLE))
        threshold = guess * size
        while True:
            end = collect_row(high, threshold, columns, values, at)
            edge, least = infinite, zero
            if end - at >= k:
                edge, least = kth_largest(values[at:end], k, scratch), infinite
                for i in range(at, end):
                    if values[i] >= edge:
                        exact[i - at] = pre_activation(x[row], encoder, bias, columns[i])
                        least = min(least, exact[i - at])
                least = max(least, zero)
                if threshold <= least:
                    break
                threshold = np.float32(0.999) * least
            elif threshold > 0:
                threshold = np.float32(0.7) * threshold if threshold > np.float32(0.1) * size else zero
            else:
                break
        positive_end = at
        for i in range(at, end):
            if values[i] >= least:
                value = exact[i - at] if values[i] >= edge else pre_activation(x[row], encoder, bias, columns[i])
                if value > 0:
                    columns[positive_end], values[positive_end] = columns[i], value
                    positive_end += 1
        end = positive_end
        if positive_end - at > k:
            end = keep_largest(columns, values, at, positive_end, k, kth_largest(values[at:positive_end], k, scratch))
        guess = follow(guess, least, size)
        counts[row] = end - at
        at = end
    return at


class Screened:
    """Active entries of a batch, by screening; the same methods as cpu.Whole."""

    def __init__(self, encoder: Tensor, x: Tensor):
        """encoder [d_sae, d_in], x [rows, d_in], float32."""
        self.x, self.encoder = x, encoder
        self.rounded = shared_buffer("rounded encoder", encoder.shape, torch.int8)
        self.latents = _numbers(len(encoder))
        arrays = encoder.numpy(), self.rounded.numpy(), *self.latents
        run(lambda part: round_rows(*arrays, *part), parts_of(len(encoder), ENCODER_ROWS))

    def above(self, part: tuple[int, int], bias: Tensor, low: Tensor, *out) -> int:
        """Entries of rows [first, last) above `low` [d_sae]; out: counts, columns, values. Returns how many."""
        return collect_above(*self._given(part, bias), low.numpy(), *out)

    def largest(self, part: tuple[int, int], bias: Tensor, k: int, *out) -> int:
        """The k largest positive entries of each of the rows [first, last). Returns how many."""
        return collect_largest(*self._given(part, bias), k, *out)

    def _given(self, part: tuple[int, int], bias: Tensor) -> tuple:
        products, rows = self.products(part)
        return products, self.x[slice(*part)].numpy(), self.encoder.numpy(), bias.numpy(), rows, self.latents

    def products(self, part: tuple[int, int]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """int8 products [rows, d_sae] of at most MICRO_BATCH rows, and the rows' (steps, norms, errors)."""
        x = self.x[slice(*part)]
        rounded = own_buffer("rounded rows", (MICRO_BATCH, x.shape[1]), torch.int8)[: len(x)]
        # The whole product's buffer: a step has one or the other.
        products = own_buffer("z", (MICRO_BATCH, len(self.encoder)), x.dtype).view(torch.int32)[: len(x)]
        rows = _numbers(len(x))
        round_rows(x.numpy(), rounded.numpy(), *rows, 0, len(x))
        torch._int_mm(rounded, self.rounded.T, out=products)  # torch's one product of int8 that gives int32
        return products.numpy(), rows


def _numbers(count: int) -> tuple[np.ndarray, ...]:
    return tuple(np.empty(count, np.float32) for _ in range(3))
