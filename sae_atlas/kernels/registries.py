"""Importing this fills numba's registries of types and their code, which the first call of a compiled function does otherwise.

It takes longer than to train a small SAE.
"""

import numba

numba.njit(lambda number: number)(0)
