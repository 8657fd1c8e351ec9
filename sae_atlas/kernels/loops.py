"""The loops of the sparse step (numba). Each works on a range of rows or latents and releases the interpreter's lock.

The callers split the ranges: a row or a latent belongs to one thread and its sums run in ascending order, so the
bits do not depend on how many threads there are. `reassoc` lets LLVM sum in vector lanes, in an order that is fixed
when it compiles.
Active entries are CSR: `starts` [rows + 1], `columns` (latents, ascending within a row), `values`.
"""

import numba
import numpy as np

MARGIN = 0.92  # guessed threshold over the typical k-th largest
SAMPLE = 512  # pre-activations from which the size of a row is estimated
LANES = 64  # pre-activations compared together, in vector lanes; few blocks hold one above the threshold
FAST = {"reassoc", "contract", "nsz", "arcp"}  # not nnan, ninf: a value that is not finite must show


def kernel(function):
    return numba.njit(function, nogil=True, cache=True, error_model="numpy", fastmath=FAST, boundscheck=False)


@kernel
def collect_row(z, threshold, columns, values, at):
    """Append the entries of the row z [d_sae] above threshold; returns the new end."""
    whole = len(z) // LANES * LANES
    for start in range(0, whole, LANES):
        hits = np.int32(0)
        for i in range(start, start + LANES):
            hits += np.int32(z[i] > threshold)
        i = start
        while hits > 0:
            if z[i] > threshold:
                columns[at] = i
                values[at] = z[i]
                at += 1
                hits -= 1
            i += 1
    for i in range(whole, len(z)):
        if z[i] > threshold:
            columns[at] = i
            values[at] = z[i]
            at += 1
    return at


@kernel
def collect_above(z, thresholds, counts, columns, values):
    """Entries of z [rows, d_sae] above their latent's own of `thresholds` [d_sae]; counts [rows]. Returns how many."""
    whole = z.shape[1] // LANES * LANES
    at = 0
    for row in range(len(z)):
        before, line = at, z[row]
        for start in range(0, whole, LANES):
            hits = np.int32(0)
            for i in range(start, start + LANES):
                hits += np.int32(line[i] > thresholds[i])
            i = start
            while hits > 0:
                if line[i] > thresholds[i]:
                    columns[at] = i
                    values[at] = line[i]
                    at += 1
                    hits -= 1
                i += 1
        for i in range(whole, len(line)):
            if line[i] > thresholds[i]:
                columns[at] = i
                values[at] = line[i]
                at += 1
        counts[row] = at - before
    return at


@kernel
def kth_largest(values, k, scratch):
    """The k-th largest (k from 1) of values, by quickselect in scratch."""
    n = len(values)
    for i in range(n):
        scratch[i] = values[i]
    low, high, rank = 0, n - 1, k - 1
    while low < high:
        pivot = scratch[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while scratch[i] > pivot:
                i += 1
            while scratch[j] < pivot:
                j -= 1
            if i <= j:
                scratch[i], scratch[j] = scratch[j], scratch[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return scratch[rank]


@kernel
def keep_largest(columns, values, first, end, k, edge):
    """Of the entries [first, end) those above `edge`, the k-th largest, and the first ones equal to it. Returns the end."""
    above = 0
    for i in range(first, end):
        above += values[i] > edge
    equal = k - above  # how many entries equal to the k-th are kept
    at = first
    for i in range(first, end):
        if values[i] > edge or (values[i] == edge and equal > 0):
            equal -= values[i] == edge
            columns[at], values[at] = columns[i], values[i]
            at += 1
    return at


@kernel
def follow(guess, edge, size):
    """The next row's guess, in sizes, after a row of this size whose k-th largest is `edge` (0: it has fewer)."""
    if edge > 0 and size > 0:
        return np.float32(guess + (0.05 if guess > 0 else 1.0) * (MARGIN * edge / size - guess))
    return np.float32(0.95 * guess)


@kernel
def collect_largest(z, k, counts, columns, values):
    """The k largest positive entries of each row of z [rows, d_sae]; of equal ones the first. Returns how many.

    A guessed threshold, so many root mean squares of the row, leaves a few more than k candidates; quickselect finds
    the k-th among them. A guess that leaves fewer is lowered: it changes the time, never the result.
    """
    n = z.shape[1]
    scratch = np.empty(n, z.dtype)
    at = 0
    guess = np.float32(0)
    for row in range(len(z)):
        line = z[row]
        squares = z.dtype.type(0)
        for i in range(min(n, SAMPLE)):
            squares += line[i] * line[i]
        size = np.sqrt(squares / min(n, SAMPLE))
        factor = guess
        end = collect_row(line, factor * size, columns, values, at)
        while end - at < k and factor > 0:
            factor = np.float32(0.7 * factor if factor > 0.1 else 0.0)
            end = collect_row(line, factor * size, columns, values, at)
        edge = z.dtype.type(0)
        if end - at >= k:
            edge = kth_largest(values[at:end], k, scratch)
            end = keep_largest(columns, values, at, end, k, edge)
        guess = follow(guess, edge, size)
        counts[row] = end - at
        at = end
    return at


@kernel
def decode(target, decoder, starts, columns, values, bounds, residuals, dots, total, first, last):
    """Residuals and, per entry, their product with the entry's decoder row, of rows [first, last).

    target [rows, d_out]: what the latents' decoder rows should sum up to; d_out is d_in for an SAE.
    bounds [groups]: ascending ends of nested prefixes of the latents (one group, d_sae, unless Matryoshka).
    residuals [rows, groups, d_out]: on return sum - target, summed over the prefixes from a group on: what the latents of
    that group see. dots [entries]: that sum times the entry's decoder row. total [d_out]: group 0's sum over rows.
    Returns the squared errors summed over prefixes and rows, and of the last prefix alone.
    """
    groups, d_out = residuals.shape[1], residuals.shape[2]
    every, whole = 0.0, 0.0
    for row in range(first, last):
        entry, end = starts[row], starts[row + 1]
        for group in range(groups):
            residual = residuals[row, group]
            if group:
                previous = residuals[row, group - 1]
                for i in range(d_out):
                    residual[i] = previous[i]
            else:
                for i in range(d_out):
                    residual[i] = -target[row, i]
            while entry < end and columns[entry] < bounds[group]:
                value, direction = values[entry], decoder[columns[entry]]
                for i in range(d_out):
                    residual[i] += value * direction[i]
                entry += 1
            squares = target.dtype.type(0)
            for i in range(d_out):
                squares += residual[i] * residual[i]
            every += squares
            if group == groups - 1:
                whole += squares
        for group in range(groups - 2, -1, -1):
            for i in range(d_out):
                residuals[row, group, i] += residuals[row, group + 1, i]
        for i in range(d_out):
            total[i] += residuals[row, 0, i]
        group = 0
        for entry in range(starts[row], end):
            while columns[entry] >= bounds[group]:
                group += 1
            direction, seen = decoder[columns[entry]], residuals[row, group]
            product = target.dtype.type(0)
            for i in range(d_out):
                product += seen[i] * direction[i]
            dots[entry] = product
    return every, whole


@kernel
def transpose(starts, columns, ends, order, rows):
    """CSC of the entries: `ends` [d_sae + 1], zeros before; `order` and `rows` [entries], by latent, then row."""
    for entry in range(len(columns)):
        ends[columns[entry] + 1] += 1
    for latent in range(len(ends) - 1):
        ends[latent + 1] += ends[latent]
    next_entry = ends[:-1].copy()
    for row in range(len(starts) - 1):
        for entry in range(starts[row], starts[row + 1]):
            at = next_entry[columns[entry]]
            order[at] = entry
            rows[at] = row
            next_entry[columns[entry]] = at + 1


@kernel
def accumulate(ends, order, rows, factor, inputs, group_of, residuals, to_decoder, to_encoder, grads, first, last):
    """Weight gradients of latents [first, last) from their entries, rows ascending.

    factor * to_decoder, to_encoder [entries]: weights of the residual and of `inputs` [rows, d_in].
    grads: (W_dec, W_enc, b_enc).
    """
    decoder, encoder, bias = grads
    d_in, d_out = inputs.shape[1], residuals.shape[2]
    for latent in range(first, last):
        to_dec, to_enc = decoder[latent], encoder[latent]
        to_dec[:] = 0
        to_enc[:] = 0
        total = inputs.dtype.type(0)
        group = group_of[latent]
        for at in range(ends[latent], ends[latent + 1]):
            entry, row = order[at], rows[at]
            a, b = factor * to_decoder[entry], to_encoder[entry]
            residual, x = residuals[row, group], inputs[row]
            for i in range(d_out):
                to_dec[i] += a * residual[i]
            for i in range(d_in):
                to_enc[i] += b * x[i]
            total += b
        bias[latent] = total
