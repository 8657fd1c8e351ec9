"""The loops of the sparse step on a GPU (Triton). A program takes a row of the batch, a latent, or a row of a weight.

Nothing is added atomically: a sum belongs to one program and runs in an order that depends on sizes alone, so a step
gives the same bits every time. Sums are kept in the dtype of the weights, also where what is gathered is bfloat16.
Active entries are CSR in the batch's order: `starts` [rows + 1], `rows`, `columns` (latents, ascending within a row),
`values`. `*_size` is a power of two: how much of a row, of a latent's entries or of d_in is worked on together.
"""

import triton
import triton.language as tl


@triton.jit
def pre_activations(z, bias, row, at, d_sae):
    """Of a row, at latents `at`: the encoder product plus bias, in the bias's dtype; 0 beyond the last latent."""
    inside = at < d_sae
    b = tl.load(bias + at, mask=inside, other=0)
    value = tl.load(z + row.to(tl.int64) * d_sae + at, mask=inside, other=0).to(b.dtype) + b
    return tl.where(inside, value, tl.zeros_like(value))


@triton.jit
def decoder_rows(decoder, columns, entries, valid, at, inside, d_out):
    """Decoder rows [entries, d_size] of the latents of these entries; 0 where not `valid` or not `inside` d_out."""
    latent = tl.load(columns + entries, mask=valid, other=0).to(tl.int64)
    return tl.load(decoder + latent[:, None] * d_out + at[None, :], mask=valid[:, None] & inside[None, :], other=0)


@triton.jit
def find_edges(z, bias, d_sae, k, edges, spare, counts, row_size: tl.constexpr, bits: tl.constexpr):
    """Per row: the k-th largest positive value (0 if fewer are positive), how many equal to it count, how many in all.

    Positive floats are ordered as the integers of the same bits, so the edge is found one bit at a time.
    """
    row = tl.program_id(0)
    value = pre_activations(z, bias, row, tl.arange(0, row_size), d_sae)
    positive = value > 0
    ordered = value.to(tl.int64, bitcast=True) if bits == 63 else value.to(tl.int32, bitcast=True)
    ordered = tl.where(positive, ordered, tl.zeros_like(ordered))
    edge = tl.sum(tl.zeros_like(ordered), 0)  # 0 of their dtype
    for step in range(bits):
        higher = edge + ((edge * 0 + 1) << (bits - 1 - step))
        edge = tl.where(tl.sum((ordered >= higher).to(tl.int32), 0) >= k, higher, edge)
    above = tl.sum((ordered > edge).to(tl.int32), 0)
    equal = tl.sum(((ordered == edge) & positive).to(tl.int32), 0)
    left = tl.minimum(k - above, equal)
    tl.store(edges + row, edge.to(value.dtype, bitcast=True))
    tl.store(spare + row, left)
    tl.store(counts + row, above + left)


@triton.jit
def count_above(z, bias, thresholds, d_sae, counts, row_size: tl.constexpr):
    """Per row: entries above their latent's threshold [d_sae]."""
    row = tl.program_id(0)
    count = 0
    for start in range(0, d_sae, row_size):
        at = start + tl.arange(0, row_size)
        threshold = tl.load(thresholds + at, mask=at < d_sae, other=float("inf"))
        count += tl.sum((pre_activations(z, bias, row, at, d_sae) > threshold).to(tl.int32), 0)
    tl.store(counts + row, count)


@triton.jit
def collect(
    z, bias, thresholds, edges, spare, d_sae, starts, room, rows, columns, values,
    row_size: tl.constexpr, by_row: tl.constexpr,
):  # fmt: skip
    """Write the entries of a row from starts[row] on, none at or beyond `room`.

    by_row: those above the row's edge, and the first `spare` of those equal to it; else those above thresholds.
    """
    row = tl.program_id(0)
    end = tl.load(starts + row)
    if by_row:
        edge, left = tl.load(edges + row), tl.load(spare + row)
    for start in range(0, d_sae, row_size):
        at = start + tl.arange(0, row_size)
        value = pre_activations(z, bias, row, at, d_sae)
        if by_row:
            equal = ((value == edge) & (value > 0)).to(tl.int32)
            selected = (value > edge) | ((equal > 0) & (tl.cumsum(equal, 0) <= left))
            left -= tl.sum(equal, 0)
        else:
            selected = value > tl.load(thresholds + at, mask=at < d_sae, other=float("inf"))
        entry = end + tl.cumsum(selected.to(tl.int32), 0) - 1
        fits = selected & (entry < room)
        tl.store(rows + entry, tl.zeros_like(at) + row, mask=fits)
        tl.store(columns + entry, at, mask=fits)
        tl.store(values + entry, value, mask=fits)
        end += tl.sum(selected.to(tl.int32), 0)


@triton.jit
def decode(
    target, decoder, starts, columns, latents, room, residuals, dots, every, whole, d_out,
    groups: tl.constexpr, entries_size: tl.constexpr, d_size: tl.constexpr,
):  # fmt: skip
    """Of a row, as loops.decode: residuals [rows, groups, d_out], dots [entries], squared errors every, whole [rows].

    starts [rows * groups + 1]: entries of a row are split into groups by their latents.
    """
    row = tl.program_id(0)
    at = tl.arange(0, d_size)
    inside = at < d_out
    wide = row.to(tl.int64)
    residual = -tl.load(target + wide * d_out + at, mask=inside, other=0)
    squares = tl.sum(residual * 0, 0)
    total = squares
    for group in range(groups):
        first = tl.load(starts + row * groups + group)
        last = tl.minimum(tl.load(starts + row * groups + group + 1), room)
        for entry in range(first, last, entries_size):
            these = entry + tl.arange(0, entries_size)
            valid = these < last
            value = tl.load(latents + these, mask=valid, other=0)
            rows = decoder_rows(decoder, columns, these, valid, at, inside, d_out)
            residual += tl.sum(value[:, None] * rows.to(value.dtype), 0)
        tl.store(residuals + (wide * groups + group) * d_out + at, residual, mask=inside)
        squares = tl.sum(residual * residual, 0)
        total += squares
    tl.store(every + row, total)
    tl.store(whole + row, squares)
    tl.debug_barrier()  # the stores above are read below
    seen = residual * 0
    for back in range(groups):
        group = groups - 1 - back
        pointers = residuals + (wide * groups + group) * d_out + at
        seen += tl.load(pointers, mask=inside, other=0)
        tl.store(pointers, seen, mask=inside)
        first = tl.load(starts + row * groups + group)
        last = tl.minimum(tl.load(starts + row * groups + group + 1), room)
        for entry in range(first, last, entries_size):
            these = entry + tl.arange(0, entries_size)
            valid = these < last
            rows = decoder_rows(decoder, columns, these, valid, at, inside, d_out)
            tl.store(dots + these, tl.sum(seen[None, :] * rows.to(seen.dtype), 1), mask=valid)


@triton.jit
def accumulate(
    ends, order, rows, groups_of, factor, inputs, residuals, to_decoder, to_encoder, decoder, encoder, bias, d_in, d_out,
    groups: tl.constexpr, entries_size: tl.constexpr, d_size: tl.constexpr, out_size: tl.constexpr,
):  # fmt: skip
    """Weight gradients of a latent from its entries order[ends[latent]:ends[latent + 1]], rows ascending."""
    latent = tl.program_id(0)
    at, out = tl.arange(0, d_size), tl.arange(0, out_size)
    inside, inside_out = at < d_in, out < d_out
    group = tl.load(groups_of + latent)
    first, last = tl.load(ends + latent), tl.load(ends + latent + 1)
    kind = to_encoder.dtype.element_ty
    to_dec, to_enc = tl.zeros([out_size], kind), tl.zeros([d_size], kind)
    total = tl.zeros([entries_size], kind)
    for start in range(first, last, entries_size):
        these = start + tl.arange(0, entries_size)
        valid = these < last
        entry = tl.load(order + these, mask=valid, other=0)
        row = tl.load(rows + entry, mask=valid, other=0).to(tl.int64)
        a = tl.load(to_decoder + entry, mask=valid, other=0)
        b = tl.load(to_encoder + entry, mask=valid, other=0)
        both = valid[:, None] & inside_out[None, :]
        residual = tl.load(residuals + (row[:, None] * groups + group) * d_out + out[None, :], mask=both, other=0)
        both = valid[:, None] & inside[None, :]
        x = tl.load(inputs + row[:, None] * d_in + at[None, :], mask=both, other=0)
        to_dec += tl.sum(a[:, None] * residual.to(kind), 0)
        to_enc += tl.sum(b[:, None] * x.to(kind), 0)
        total += b
    wide = latent.to(tl.int64)
    tl.store(decoder + wide * d_out + out, to_dec * tl.load(factor), mask=inside_out)
    tl.store(encoder + wide * d_in + at, to_enc, mask=inside)
    tl.store(bias + latent, tl.sum(total, 0))


@triton.jit
def sum_segments(ends, order, values, sums, entries_size: tl.constexpr):
    """Sum of a latent's values."""
    latent = tl.program_id(0)
    first, last = tl.load(ends + latent), tl.load(ends + latent + 1)
    total = tl.zeros([entries_size], values.dtype.element_ty)
    for start in range(first, last, entries_size):
        these = start + tl.arange(0, entries_size)
        entry = tl.load(order + these, mask=these < last, other=0)
        total += tl.load(values + entry, mask=these < last, other=0)
    tl.store(sums + latent, tl.sum(total, 0))


@triton.jit
def measure_rows(grads, decoder, squares, along, n, count, unit_norm: tl.constexpr, size: tl.constexpr):
    """As adam.measure_rows: of a row of n of the `count` values, its square and its part along the decoder's row."""
    row = tl.program_id(0)
    i = tl.arange(0, size)
    at = row.to(tl.int64) * n + i
    inside = (i < n) & (at < count)
    grad = tl.load(grads + at, mask=inside, other=0)
    if unit_norm:
        direction = tl.load(decoder + at, mask=inside, other=0)
        product = tl.sum(grad * direction, 0)
        tl.store(along + row, product)
        grad -= product * direction
    tl.store(squares + row, tl.sum(grad * grad, 0))


@triton.jit
def adam_rows(
    weights, grads, first_moment, second_moment, along, numbers, n, count, unit_norm: tl.constexpr, size: tl.constexpr
):
    """As adam.adam_rows, in place. numbers: those of adam.adam_rows and epsilon; a clip factor of NaN: nothing."""
    row = tl.program_id(0)
    i = tl.arange(0, size)
    at = row.to(tl.int64) * n + i
    clip, rate1, rate2 = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    learning_rate, unbias, epsilon = tl.load(numbers + 3), tl.load(numbers + 4), tl.load(numbers + 5)
    inside = (i < n) & (at < count)
    weight = tl.load(weights + at, mask=inside, other=0)
    g = tl.load(grads + at, mask=inside, other=0)
    if unit_norm:
        g -= tl.load(along + row) * weight
    g *= clip
    m1 = rate1 * tl.load(first_moment + at, mask=inside, other=0) + (1 - rate1) * g
    m2 = rate2 * tl.load(second_moment + at, mask=inside, other=0) + (1 - rate2) * g * g
    weight -= learning_rate * m1 / (tl.sqrt(m2 * unbias) + epsilon)
    if unit_norm:
        weight /= tl.sqrt(tl.sum(weight * weight, 0))
    good = inside & (g == g)  # not NaN
    tl.store(first_moment + at, m1, mask=good)
    tl.store(second_moment + at, m2, mask=good)
    tl.store(weights + at, weight, mask=good)
