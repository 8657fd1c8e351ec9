"""How a job's memory comes from the system and stays: arrays of one batch are made again for the next, for hours."""

import ctypes
import os

# glibc's mallopt: what M_TRIM_THRESHOLD bytes of free memory at the heap's end are given back, and what array from
# M_MMAP_THRESHOLD bytes on gets memory of its own, which is given back and cleared again for every batch.
TRIM, MMAP = (-1, 2**31 - 1), (-3, 2**25)  # 32 MB: the most that glibc takes


def keep_memory() -> None:
    """Call before torch makes its first large array. An evaluation then meets a ninth of the page faults.

    Pages of 2 MB for torch's arrays, where the system has them and unless the user says otherwise; arrays up to 32 MB are
    made in memory that the process has. Where the C library is not glibc only the former.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (TRIM, MMAP):
            mallopt(*parameter)
