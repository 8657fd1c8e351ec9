"""Clip, Adam and the decoder's norm in one pass over the weights (numba); rows as in sae_atlas/kernels/loops.py."""

import numpy as np

from sae_atlas.kernels.loops import kernel

EPSILON = 1e-8


@kernel
def measure_rows(grads, decoder_rows, squares, along, first, last):
    """Per row of grads [rows, n]: its square and, if decoder_rows is the decoder, its part along the decoder's row.

    The part along is not in the square, as it is removed before Adam. decoder_rows of no rows: nothing is removed.
    """
    n = grads.shape[1]
    for row in range(first, last):
        square, product = grads.dtype.type(0), grads.dtype.type(0)
        for i in range(n):
            square += grads[row, i] * grads[row, i]
        if len(decoder_rows):
            for i in range(n):
                product += grads[row, i] * decoder_rows[row, i]
            square = grads.dtype.type(0)
            for i in range(n):
                rest = grads[row, i] - product * decoder_rows[row, i]
                square += rest * rest
        squares[row] = square
        along[row] = product


@kernel
def adam_rows(weights, grads, first_moment, second_moment, along, unit_norm, numbers, first, last):
    """One step of Adam on rows [first, last), in place; `unit_norm` rows lose `along` and return to norm 1.

    numbers: clip factor, the two decay rates, learning rate over the first moment's bias, and 1 over the second's.
    """
    n = weights.shape[1]
    kind = weights.dtype.type
    clip, rate1, rate2, learning_rate, unbias = numbers
    clip, rate1, rate2 = kind(clip), kind(rate1), kind(rate2)
    learning_rate, unbias = kind(learning_rate), kind(unbias)
    new1, new2, epsilon = kind(1) - rate1, kind(1) - rate2, kind(EPSILON)
    for row in range(first, last):
        weight, grad, moment1, moment2 = weights[row], grads[row], first_moment[row], second_moment[row]
        part = along[row] if unit_norm else kind(0)
        for i in range(n):
            g = clip * (grad[i] - part * weight[i])
            m1 = rate1 * moment1[i] + new1 * g
            m2 = rate2 * moment2[i] + new2 * g * g
            moment1[i] = m1
            moment2[i] = m2
            weight[i] -= learning_rate * m1 / (np.sqrt(m2 * unbias) + epsilon)
        if unit_norm:
            square = kind(0)
            for i in range(n):
                square += weight[i] * weight[i]
            inverse = kind(1) / np.sqrt(square)
            for i in range(n):
                weight[i] *= inverse
