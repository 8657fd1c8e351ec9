"""The contexts kept for every latent in one pass over a text: its highest peaks, and a random sample of all its peaks.

A stretch is the part of one document that lies in one context; a peak is a latent's largest activation in a stretch. A
position counts the tokens of the whole text: context x length of a context + position in the context. Memory is bounded
by d_sae x (k + SAMPLED k) windows, whatever the length of the text.
"""

import numba
import numpy as np

SAMPLED = 4  # peaks in the sample, as a multiple of k
OCTAVES = 32  # activations are counted between 2^-32 and 2^32, in half octaves
BINS = 4 * OCTAVES
NONE = np.uint64(0xFFFFFFFFFFFFFFFF)


class TopActivations:
    """The `k` highest peaks of distinct documents, and `SAMPLED * k` peaks chosen at random, of every latent.

    Of equal peaks the first one read is kept. The sample holds the peaks whose positions have the lowest hashes, so it is
    uniform and depends neither on batches nor on a random generator. Also per latent [d_sae]: tokens on which it fired, sum
    of its squares, largest activation, and counts of its activations by half octave [d_sae, BINS].
    """

    def __init__(self, d_sae: int, k: int, window: int):
        self.window, slots = window, {"top": k, "sample": SAMPLED * k}
        self.value = {name: np.zeros((d_sae, size), np.float32) for name, size in slots.items()}  # 0: empty
        self.position = {name: np.full((d_sae, size), -1, np.int64) for name, size in slots.items()}
        self.start = {name: np.zeros((d_sae, size), np.int64) for name, size in slots.items()}  # position of the window
        self.length = {name: np.zeros((d_sae, size), np.int16) for name, size in slots.items()}
        self.shape = {name: np.zeros((d_sae, size, window), np.float32) for name, size in slots.items()}
        self.document = np.full((d_sae, k), -1, np.int64)  # of the highest peaks
        self.hash = np.full((d_sae, SAMPLED * k), NONE)
        self.fired = np.zeros(d_sae, np.int64)
        self.squares = np.zeros(d_sae)
        self.largest = np.zeros(d_sae, np.float32)
        self.counts = np.zeros((d_sae, BINS), np.int64)
        self.best = np.zeros(d_sae, np.float32)  # largest activation in the stretch being read
        self.best_row = np.zeros(d_sae, np.int64)

    def add(self, starts, columns, values, text_position, document) -> None:
        """Read the active entries of some whole contexts, in order.

        starts [rows + 1], columns and values [entries]: CSR, latents ascending within a row. Per row its position
        in the whole text and its document. Masked positions are not among the rows.
        """
        stretches = _stretches(text_position, document)
        _count(columns, values, self.fired, self.squares, self.largest, self.counts)
        top = self.value["top"], self.position["top"], self.document
        sample = self.value["sample"], self.position["sample"], self.hash
        _offer(starts, columns, values, text_position, document, stretches, self.best, self.best_row, *top, *sample)
        for name in self.value:
            windows = self.position[name], self.start[name], self.length[name], self.shape[name]
            _fill(starts, columns, values, text_position, stretches, *windows)


def edges(largest: float) -> list[float]:
    """The 25 edges of a histogram of 24 half octaves that ends above `largest`; lower values are in the first bin."""
    end = _bin(np.float32(largest)) + 1 - BINS // 2
    return [2.0 ** ((end - 24 + i) / 2) for i in range(25)]


def histogram(counts: np.ndarray, largest: float) -> np.ndarray:
    """Counts [d_sae, BINS] in the bins of `edges(largest)`, [d_sae, 24]."""
    end = _bin(np.float32(largest)) + 1
    first = max(end - 24, 0)
    bins = np.zeros((len(counts), 24), np.int64)
    bins[:, 24 - (end - first) :] = counts[:, first:end]
    bins[:, 0] += counts[:, :first].sum(axis=1)
    return bins


def _stretches(text_position: np.ndarray, document: np.ndarray) -> np.ndarray:
    """First row of every stretch, and the number of rows: in a stretch positions are consecutive, of one document."""
    begins = (np.diff(text_position) != 1) | (np.diff(document) != 0)
    return np.concatenate([[0], np.flatnonzero(begins) + 1, [len(text_position)]])


@numba.njit(cache=True)
def _bin(value):
    """Half octave that a positive value lies in."""
    return min(max(int(np.floor(2 * np.log2(np.float64(value)))) + BINS // 2, 0), BINS - 1)


@numba.njit(cache=True, nogil=True)
def _count(columns, values, fired, squares, largest, counts):
    for entry in range(len(columns)):
        latent, value = columns[entry], values[entry]
        fired[latent] += 1
        squares[latent] += np.float64(value) * np.float64(value)
        largest[latent] = max(largest[latent], value)
        counts[latent, _bin(value)] += 1


@numba.njit(cache=True, nogil=True)
def _offer(
    starts, columns, values, text_position, document, stretches, best, best_row,
    top_value, top_position, top_document, sampled_value, sampled_position, sampled_hash,
):  # fmt: skip
    """Offer every latent's peak in every stretch to its highest peaks and to its sample."""
    seen = np.empty(len(best), np.int64)
    for number in range(len(stretches) - 1):
        first, last = stretches[number], stretches[number + 1]
        count = 0
        for row in range(first, last):
            for entry in range(starts[row], starts[row + 1]):
                latent = columns[entry]
                if best[latent] == 0:
                    seen[count] = latent
                    count += 1
                if values[entry] > best[latent]:
                    best[latent], best_row[latent] = values[entry], row
        for i in range(count):
            latent = seen[i]
            peak, position = best[latent], text_position[best_row[latent]]
            best[latent] = 0
            _keep_highest(
                top_value[latent], top_position[latent], top_document[latent], peak, position, document[first]
            )
            _keep_sampled(sampled_value[latent], sampled_position[latent], sampled_hash[latent], peak, position)


@numba.njit(cache=True, nogil=True)
def _keep_highest(values, positions, documents, peak, position, document):
    slot = 0
    for i in range(len(values)):
        if documents[i] == document:
            if peak > values[i]:
                values[i], positions[i] = peak, position
            return
        lower = values[i] < values[slot]
        later = values[i] == values[slot] and positions[i] > positions[slot]
        if lower or later:  # the one to replace: the lowest, of equal ones the last
            slot = i
    if peak > values[slot]:
        values[slot], positions[slot], documents[slot] = peak, position, document


@numba.njit(cache=True, nogil=True)
def _keep_sampled(values, positions, hashes, peak, position):
    mixed = _mix(position)
    slot = np.argmax(hashes)
    if mixed < hashes[slot]:
        values[slot], positions[slot], hashes[slot] = peak, position, mixed


@numba.njit(cache=True, nogil=True)
def _mix(number):
    """splitmix64 (Steele, Lea, Flood 2014): neighbours get unrelated numbers."""
    z = np.uint64(number) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _fill(starts, columns, values, text_position, stretches, positions, start, length, shape):
    """Activations around those kept peaks that lie in these rows; a window stays within its stretch."""
    window = shape.shape[2]
    for latent in range(len(positions)):
        for slot in range(positions.shape[1]):
            position = positions[latent, slot]
            if position < text_position[0] or position > text_position[-1]:
                continue
            row = np.searchsorted(text_position, position)
            number = np.searchsorted(stretches, row, side="right") - 1
            low, high = stretches[number], stretches[number + 1]
            first = max(low, row - window // 2)
            last = min(high, first + window)
            first = max(low, last - window)
            start[latent, slot], length[latent, slot] = text_position[first], last - first
            shape[latent, slot] = 0
            for i in range(first, last):
                entry = starts[i] + np.searchsorted(columns[starts[i] : starts[i + 1]], latent)
                if entry < starts[i + 1] and columns[entry] == latent:
                    shape[latent, slot, i - first] = values[entry]
