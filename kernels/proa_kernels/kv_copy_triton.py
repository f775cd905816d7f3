"""KV block copies in Triton: program (block, piece of COLS elements). Legend as in kv_copy.py.

An element's place in the pool follows from its number in the block by division with compile-time sizes, so that the
compiler sees how long the contiguous pieces are and moves 16 bytes at a time.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from proa_kernels.arch import ceil_div, next_power_of_2

COLS = 4096


@triton.jit
def kv_copy_kernel(
    pool_ptr, blocks_ptr, packed_ptr, size_block, size_a, size_b, size_c,
    B: tl.constexpr, C: tl.constexpr, RUN: tl.constexpr, ELEMENTS: tl.constexpr, COLS: tl.constexpr,
    GATHER: tl.constexpr,
):  # fmt: skip
    """Element e of a block is [a, b, c, r] of sizes [any, B, C, RUN], at strides size_a, size_b, size_c and 1."""
    n = tl.program_id(0).to(tl.int64)
    block = tl.load(blocks_ptr + n).to(tl.int64)
    e = tl.program_id(1) * COLS + tl.arange(0, COLS)
    run = e // RUN
    # Products in 64 bits: the layers of one block may lie further apart than 2^31 elements.
    a, b, c = (run // (B * C)).to(tl.int64), (run // C % B).to(tl.int64), (run % C).to(tl.int64)
    place = a * size_a + b * size_b + c * size_c + e % RUN
    in_pool = pool_ptr + block * size_block + place
    in_packed = packed_ptr + n * ELEMENTS + e
    here = e < ELEMENTS
    if GATHER:
        tl.store(in_packed, tl.load(in_pool, mask=here).to(packed_ptr.dtype.element_ty), mask=here)
    else:
        tl.store(in_pool, tl.load(in_packed, mask=here).to(pool_ptr.dtype.element_ty), mask=here)


def launch_kv_copy(
    pool: torch.Tensor, levels: Sequence[tuple[int, int]], blocks_N: torch.Tensor, packed: torch.Tensor, *,
    is_gather: bool,
) -> None:  # fmt: skip
    """Copy between `pool` and contiguous `packed`; `levels` are (size, stride) of a block, at most four, the last 1."""
    if packed.numel() == 0:
        return
    elements = math.prod(packed.shape[1:])
    (_, size_a), (b, size_b), (c, size_c), (run, _) = [(1, 0)] * (4 - len(levels)) + list(levels)
    cols = min(COLS, next_power_of_2(elements))
    kv_copy_kernel[(blocks_N.shape[0], ceil_div(elements, cols))](
        pool, blocks_N, packed, pool.stride(0), size_a, size_b, size_c,
        B=b, C=c, RUN=run, ELEMENTS=elements, COLS=cols, GATHER=is_gather, num_warps=4,
    )  # fmt: skip
