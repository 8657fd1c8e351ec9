"""Threads of the step and the arrays they keep between steps.

Work is cut into parts by size alone, a part is done by one thread, and products inside it stay on that thread: any
number of threads gives the same bits, and a busy machine costs no waiting at barriers inside a product.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch
from torch import Tensor

MICRO_BATCH = 256  # rows whose pre-activations stay in cache until they are compacted


def use_threads(threads: int) -> None:
    """Share work over this many threads from now on."""
    global _threads
    _threads = threads
    torch.set_num_threads(1)


def run(work: Callable, parts: Iterable) -> list:
    """Results of work(part), in order. The calling thread works too: small work is done before another thread wakes up.

    After an error, or an interruption, no further part is begun.
    """
    parts = list(parts)
    results = [None] * len(parts)
    numbers = iter(range(len(parts)))  # the interpreter hands out each one once

    def take() -> None:
        try:
            for number in numbers:
                results[number] = work(parts[number])
        finally:
            deque(numbers, maxlen=0)

    others = [_pool(_threads - 1).submit(take) for _ in range(min(_threads, len(parts)) - 1)]
    try:
        take()
    finally:
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()
    return results


def parts_of(count: int, size: int) -> list[tuple[int, int]]:
    """Ranges (first, last) of `size`, the last one shorter."""
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def own_buffer(name: str, shape, dtype: torch.dtype) -> Tensor:
    """Scratch of this thread, kept between steps."""
    if not hasattr(_local, "buffers"):
        _local.buffers = {}
    return _reused(_local.buffers, name, shape, dtype)


def shared_buffer(name: str, shape, dtype: torch.dtype) -> Tensor:
    """An array of the step, kept between steps: its content lasts until the next one."""
    return _reused(_shared, name, shape, dtype)


def free_buffers() -> None:
    """Free the arrays of the step: the gradients are as large as the weights."""
    _shared.clear()


_threads = 1
_local = threading.local()
_shared: dict[tuple, Tensor] = {}


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "step", initializer=torch.set_num_threads, initargs=(1,))


def _reused(buffers: dict, name: str, shape, dtype: torch.dtype) -> Tensor:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    buffer = buffers.get((name, dtype))
    if buffer is None or buffer.shape != shape:
        buffer = buffers[name, dtype] = torch.empty(shape, dtype=dtype)
    return buffer
