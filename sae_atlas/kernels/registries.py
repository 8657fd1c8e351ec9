"""Importing this has numba set up what the first call of a process needs, which takes longer than to train a small SAE."""

import numba

numba.njit(lambda number: number)(0)
