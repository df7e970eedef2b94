"""Compile the tree kernels for an H100 or H200 without one; prints what runs on tensor cores.

A program of its own, because Triton either interprets or compiles for the whole of a process.
"""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sage_core.runtime.attention import triton_kernel as triton_tree

POINTERS = {"words": "*i64", "committed": "*i64"}
FLOATS = ("sums", "tops", "totals", "sums_out", "tops_out", "totals_out")


def compiled(kernel: Any, dtype: str, **constants: Any) -> Any:
    """The kernel for compute capability 9.0, as a call with those constants would have it."""
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("query", "key", "value", "out"):
            signature[name] = f"*{dtype}"
        elif name in FLOATS:
            signature[name] = "*fp32"
        else:
            signature[name] = POINTERS.get(name, "fp32" if name == "scale" else "i32")
    at = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=at)
    options = {"num_warps": 4, "num_stages": 2}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


if __name__ == "__main__":
    parts = compiled(
        triton_tree._parts_kernel,
        "bf16",
        BLOCK_ROWS=16,
        BLOCK_KEYS=64,
        BLOCK_SIZE=64,
        COLUMNS=64,
        WIDEN=False,
    )
    merge = compiled(triton_tree._merge_kernel, "bf16", BLOCK_PARTS=16, BLOCK_ROWS=1, BLOCK_SIZE=64)
    assert max(parts.metadata.shared, merge.metadata.shared) < 100_000, "shared memory of an SM"
    print(parts.asm["ptx"].count("mma.sync"), "products on tensor cores")
