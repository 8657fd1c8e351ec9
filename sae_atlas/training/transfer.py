"""Batches on the device that trains: on CPU as they are read, on a GPU copied ahead of their use."""

import time
from collections import deque
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

STEPS_AHEAD = 4  # steps the host may be ahead of a GPU: it bounds the batches that wait there


class Batches:
    """Iterator over float32 [batch, d_in] on `device`; `waited`: seconds spent waiting for the store."""

    def __init__(self, reader, batch: int, start_row: int, device: torch.device):
        self.waited = 0.0
        self.source = reader.batches(batch, start_row, pinned=device.type == "cuda")
        self.batches = self._copied(device) if device.type == "cuda" else map(torch.from_numpy, self._read())

    def __next__(self) -> Tensor:
        return next(self.batches)

    def _read(self) -> Iterator:
        while True:
            asked = time.perf_counter()
            rows = next(self.source, None)
            self.waited += time.perf_counter() - asked
            if rows is None:
                return
            yield rows

    def _copied(self, device: torch.device) -> Iterator[Tensor]:
        """The copy of a batch runs on a stream of its own while the step before it computes."""
        stream, used = torch.cuda.Stream(device), deque()
        ahead = None
        for rows in chain(self._read(), [None]):
            following = None
            if rows is not None:
                with torch.cuda.stream(stream):
                    following = rows.to(device, non_blocking=True), torch.cuda.Event()
                    following[1].record()
            if ahead is not None:
                batch, copied = ahead
                now = torch.cuda.current_stream(device)
                now.wait_event(copied)
                batch.record_stream(now)
                yield batch.to(torch.float32, copy=True)
                used.append(torch.cuda.Event())
                used[-1].record()
                if len(used) > STEPS_AHEAD:
                    used.popleft().synchronize()
            ahead = following
