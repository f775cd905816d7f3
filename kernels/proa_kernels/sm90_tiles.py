"""Pieces of the Gluon kernels for sm90: pages as boxes of a tensor descriptor, clearing of what lies behind a length.

Gluon is the level of Triton at which warps take roles: some copy tiles ahead, others multiply. A tile of 16-bit numbers
in shared memory is swizzled over 128 bytes: slabs of 64 columns lie one after the other, so that a page of a slab is
one box of the descriptor and one contiguous run.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

SLAB_COLS = 64
SLAB = gl.constexpr(SLAB_COLS)
MAX_PAGE_TOKENS = 64  # a page is a part of a tile of keys
SWIZZLED_HALVES = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
# A barrier of the warps of one role; Triton 3.7 gave it another name than 3.6.
sync_warps = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier


@gluon.jit
def clear_rows(tile, num_rows, ROWS: gl.constexpr, COLS: gl.constexpr):
    """Zero the rows of a tile from `num_rows` on: weights of zero do not cancel a NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [gl.num_warps(), 1], [1, 0])
    row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    for i in gl.static_range(COLS // SLAB):
        slab = tile.slice(i * SLAB, SLAB, dim=1)
        rows = slab.load(layout)
        slab.store(gl.where((row < num_rows)[:, None], rows, gl.zeros([ROWS, SLAB], rows.dtype, layout)))
    fence_async_shared()
    sync_warps()


@gluon.jit
def page_numbers(table, first, end, COUNT: gl.constexpr, PAGE: gl.constexpr):
    """Pages of COUNT * PAGE tokens from `first` on, for a role of one warp; past the last page, that page again.

    Fetched a round ahead: a bulk copy cannot start before its page number is there.
    """
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    n = gl.minimum(first // PAGE + gl.arange(0, COUNT, layout=layout), gl.maximum(end - 1, 0) // PAGE)
    return gl.load(table + n).to(gl.int32)


@gluon.jit
def page_number(pages, i):
    return gl.sum(gl.where(gl.arange(0, pages.shape[0], layout=pages.type.layout) == i, pages, 0), 0)


def can_describe(cache: torch.Tensor, page_tokens: int, width: int) -> bool:
    """Whether pages [.., page_tokens, width] lie whole rows apart and are boxes that a tile of 64 keys is made of."""
    is_box = page_tokens & (page_tokens - 1) == 0 and 8 <= page_tokens <= MAX_PAGE_TOKENS
    is_aligned = cache.data_ptr() % 16 == 0 and width * cache.element_size() % 16 == 0
    return is_box and is_aligned and cache.shape[0] > 0 and cache.stride(0) % width == 0


def page_rows(cache: torch.Tensor, page_tokens: int, width: int) -> tuple[TensorDescriptor, int]:
    """The cache as rows of `width` numbers in boxes of a page and a slab; and how many rows pages lie apart."""
    rows_apart = cache.stride(0) // width
    num_rows = (cache.shape[0] - 1) * rows_apart + cache[0].numel() // width
    return TensorDescriptor(cache, [num_rows, width], [width, 1], [page_tokens, SLAB_COLS], SWIZZLED_HALVES), rows_apart
