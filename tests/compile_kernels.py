"""Compile every Triton kernel for a card of compute capability 9.0, which needs no card: `python tests/compile_kernels.py`."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sae_atlas.kernels import gpu_loops as loops

TYPES = {"f": "*fp32", "b": "*bf16", "i": "*i32", "n": "i32"}  # of an argument, as gpu.py gives it
TILE = {"entries_size": 4, "d_size": 1024}
KERNELS = [
    (loops.find_edges, "bfnnfii", {"row_size": 32768, "bits": 31}, 16),
    (loops.count_above, "bffni", {"row_size": 1024}, 4),
    (loops.collect, "bfffininiif", {"row_size": 1024, "by_row": False}, 4),
    (loops.collect, "bfffininiif", {"row_size": 1024, "by_row": True}, 4),
    (loops.decode, "fbiifnffffn", {"groups": 5, **TILE}, 4),
    (loops.accumulate, "iiiifbbfffffnn", {"groups": 5, "out_size": 1024, **TILE}, 4),
    (loops.sum_segments, "iiff", {"entries_size": 32}, 1),
    (loops.measure_rows, "ffffnn", {"unit_norm": True, "size": 1024}, 4),
    (loops.measure_rows, "ffffnn", {"unit_norm": False, "size": 1024}, 4),
    (loops.adam_rows, "ffffffnn", {"unit_norm": True, "size": 1024}, 4),
    (loops.adam_rows, "ffffffnn", {"unit_norm": False, "size": 1024}, 4),
]


def compiled(kernel, types: str, constants: dict, warps: int) -> bytes:
    names = kernel.arg_names
    given = iter(types)
    signature = {name: "constexpr" if name in constants else TYPES[next(given)] for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, places, aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps}).asm["cubin"]


for kernel, types, constants, warps in KERNELS:
    assert compiled(kernel, types, constants, warps)
    print(kernel.__name__, constants)
