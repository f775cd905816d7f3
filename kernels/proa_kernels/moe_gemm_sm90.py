"""Grouped products of fp8 with block scales for sm90 in Gluon. Legend as in moe_gemm.py.

One program per multiprocessor walks over tiles of 128 rows. Two groups of warps multiply 64 of them each, further warps
copy ahead through a ring of stages, on into the next tile while this one is stored. Sums of one block of the depth stay
in their own registers and are added with the product of both scales (promotion, as in DeepGEMM): while one group adds,
the other multiplies. For product 1 a tile is 64 gate columns beside their 64 up columns.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from proa_kernels.arch import SCALE_GROUP
from proa_kernels.sm90_tiles import sync_warps

TILE_ROWS = TILE_COLS = 128
ROWS, COLS, DEPTH = gl.constexpr(TILE_ROWS), gl.constexpr(TILE_COLS), gl.constexpr(SCALE_GROUP)
HALF = gl.constexpr(TILE_ROWS // 2)
NUM_STAGES = 5  # of 32 KiB
GROUP1, GROUP2 = 16, 4  # row tiles that walk the columns together: measured
MULTIPLY_REGISTERS, COPY_REGISTERS = 216, 40
GATHER_WARPS, GATHER_REGISTERS = 1, 120  # copy warps of product 1: one of them was faster than four
SWIZZLED_FP8 = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)


@gluon.jit
def _place(tile, num_rows, num_cols, GROUP: gl.constexpr):
    """As `tiles.grouped_tile`."""
    per_group = GROUP * num_cols
    first_row = (tile // per_group) * GROUP
    height = gl.minimum(num_rows - first_row, GROUP)
    within = tile % per_group
    return first_row + within % height, within // height


@gluon.jit
def _copy_stage1(x_rows, w_desc, a_tile, b_tile, full, gate_row, up_row, depth):
    """Gathered rows by pointer, because a descriptor cannot gather; each thread arrives when its part is there."""
    mbarrier.expect(full, COLS * DEPTH)
    tma.async_copy_global_to_shared(w_desc, [gate_row, depth], full, b_tile.slice(0, COLS // 2))
    tma.async_copy_global_to_shared(w_desc, [up_row, depth], full, b_tile.slice(COLS // 2, COLS // 2))
    async_copy.async_copy_global_to_shared(a_tile, x_rows + depth)
    async_copy.mbarrier_arrive(full, increment_count=False)


@gluon.jit
def _copy_stage2(h_desc, w_desc, a_tile, b_tile, full, row, w_row, depth):
    mbarrier.expect(full, (ROWS + COLS) * DEPTH)
    tma.async_copy_global_to_shared(h_desc, [row, depth], full, a_tile)
    tma.async_copy_global_to_shared(w_desc, [w_row, depth], full, b_tile)


@gluon.jit
def _copy(
    x, w_desc, a_tiles, b_tiles, full, free, rows_ptr, expert_ptr, totals_ptr, num_pairs, per_token, size_k, size_n,
    GROUP: gl.constexpr, STAGES: gl.constexpr, IS_FIRST: gl.constexpr,
):  # fmt: skip
    """`x` is a pointer for product 1, else a descriptor."""
    width: gl.constexpr = COLS // 2 if IS_FIRST else COLS
    num_rows = gl.load(totals_ptr) // ROWS
    num_cols = gl.cdiv(size_n, width)
    layout: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [gl.num_warps(), 1], [1, 0])
    step = 0
    for tile in range(gl.program_id(0), num_rows * num_cols, gl.num_programs(0)):
        row_tile, col_tile = _place(tile, num_rows, num_cols, GROUP)
        w_row = gl.load(expert_ptr + row_tile) * size_n * (2 if IS_FIRST else 1) + col_tile * width
        if IS_FIRST:
            pair = gl.load(rows_ptr + row_tile * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout)))
            token = (gl.minimum(pair, num_pairs - 1) // per_token).to(gl.int64)
            x_rows = x + token[:, None] * size_k + gl.arange(0, DEPTH, layout=gl.SliceLayout(0, layout))[None, :]
        for depth in range(0, size_k, DEPTH):
            s = step % STAGES
            a_tile, b_tile, bar = a_tiles.index(s), b_tiles.index(s), full.index(s)
            mbarrier.wait(free.index(s), ((step // STAGES) & 1) ^ 1)
            if IS_FIRST:
                _copy_stage1(x_rows, w_desc, a_tile, b_tile, bar, w_row, w_row + size_n, depth)
            else:
                _copy_stage2(x, w_desc, a_tile, b_tile, bar, row_tile * ROWS, w_row, depth)
            step += 1


@gluon.jit
def _add_stage(
    acc, a_tile, b_tile, full, free, phase, x_scale_ptr, first_scale_ptr, second_scale_ptr, IS_FIRST: gl.constexpr
):
    """`acc` plus one block of the depth; the second scale is that of the right half of the columns (product 1)."""
    layout: gl.constexpr = acc.type.layout
    mbarrier.wait(full, phase)
    if IS_FIRST:
        fence_async_shared()  # rows that came by pointer are not seen by the tensor cores before
    zero = gl.zeros([HALF, COLS], gl.float32, layout)
    block = warpgroup_mma(a_tile, b_tile.permute((1, 0)), zero, use_acc=False, is_async=True)
    x_scale = gl.load(x_scale_ptr)
    scale = (x_scale * gl.load(first_scale_ptr))[:, None]
    if IS_FIRST:
        is_gate = (gl.arange(0, COLS, layout=gl.SliceLayout(0, layout)) < COLS // 2)[None, :]
        scale = gl.where(is_gate, scale, (x_scale * gl.load(second_scale_ptr))[:, None])
    block = warpgroup_mma_wait(0, [block])
    sync_warps()
    mbarrier.arrive(free, count=1)
    return acc + block * scale


@gluon.jit
def _multiply(
    half: gl.constexpr, a_tiles, b_tiles, full, free, out_ptr, xs_ptr, ws_ptr, rows_ptr, expert_ptr, totals_ptr,
    num_pairs, per_token, size_k, size_n, GROUP: gl.constexpr, STAGES: gl.constexpr, IS_FIRST: gl.constexpr,
):  # fmt: skip
    """Rows 64 `half` and on of every tile of this program."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLS, 32])
    width: gl.constexpr = COLS // 2 if IS_FIRST else COLS
    num_rows = gl.load(totals_ptr) // ROWS
    num_cols = gl.cdiv(size_n, width)
    num_groups = size_k // DEPTH
    step = 0
    for tile in range(gl.program_id(0), num_rows * num_cols, gl.num_programs(0)):
        row_tile, col_tile = _place(tile, num_rows, num_cols, GROUP)
        scale_row = gl.load(expert_ptr + row_tile) * size_n * (2 if IS_FIRST else 1) + col_tile * width
        first_scale = ws_ptr + scale_row // DEPTH * num_groups
        second_scale = ws_ptr + (scale_row + size_n) // DEPTH * num_groups
        row = row_tile * ROWS + half * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(1, layout))
        if IS_FIRST:
            row = gl.minimum(gl.load(rows_ptr + row), num_pairs - 1) // per_token
        x_scale = xs_ptr + row * num_groups
        acc = gl.zeros([HALF, COLS], gl.float32, layout)
        for k in range(num_groups):
            s = step % STAGES
            a_tile = a_tiles.index(s).slice(half * HALF, HALF)
            phase = (step // STAGES) & 1
            acc = _add_stage(
                acc, a_tile, b_tiles.index(s), full.index(s), free.index(s), phase,
                x_scale + k, first_scale + k, second_scale + k, IS_FIRST,
            )  # fmt: skip
            step += 1
        _store(acc, out_ptr, row_tile * ROWS + half * HALF, col_tile * width, size_n, IS_FIRST)


@gluon.jit
def _store(acc, out_ptr, first_row, first_col, size_n, IS_FIRST: gl.constexpr):
    width: gl.constexpr = COLS // 2 if IS_FIRST else COLS
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // width, width // 8], [4, 1], [1, 0])
    if IS_FIRST:
        gate, up = acc.reshape([HALF, 2, width]).permute((0, 2, 1)).split()
        acc = gate / (1.0 + gl.exp(-gate)) * up
    value = gl.convert_layout(acc.to(out_ptr.dtype.element_ty), layout)
    row = first_row + gl.arange(0, HALF, layout=gl.SliceLayout(1, layout))
    col = first_col + gl.arange(0, width, layout=gl.SliceLayout(0, layout))
    gl.store(out_ptr + row.to(gl.int64)[:, None] * size_n + col[None, :], value, mask=(col < size_n)[None, :])


@gluon.jit(do_not_specialize=["num_pairs", "per_token"])
def gemm_sm90_kernel(
    x, w_desc, xs_ptr, ws_ptr, out_ptr, rows_ptr, expert_ptr, totals_ptr, num_pairs, per_token, size_k, size_n,
    GROUP: gl.constexpr, STAGES: gl.constexpr, IS_FIRST: gl.constexpr, SHARED: gl.constexpr, COPY_WARPS: gl.constexpr,
    REGISTERS: gl.constexpr, COPY_REGS: gl.constexpr,
):  # fmt: skip
    a_tiles = gl.allocate_shared_memory(w_desc.dtype, [STAGES, ROWS, DEPTH], SHARED)
    b_tiles = gl.allocate_shared_memory(w_desc.dtype, [STAGES, COLS, DEPTH], SHARED)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), count=1 + 32 * COPY_WARPS if IS_FIRST else 1)
        mbarrier.init(free.index(s), count=2)
    gl.warp_specialize(
        [
            (_multiply, (
                0, a_tiles, b_tiles, full, free, out_ptr, xs_ptr, ws_ptr, rows_ptr, expert_ptr, totals_ptr,
                num_pairs, per_token, size_k, size_n, GROUP, STAGES, IS_FIRST,
            )),
            (_multiply, (
                1, a_tiles, b_tiles, full, free, out_ptr, xs_ptr, ws_ptr, rows_ptr, expert_ptr, totals_ptr,
                num_pairs, per_token, size_k, size_n, GROUP, STAGES, IS_FIRST,
            )),
            (_copy, (
                x, w_desc, a_tiles, b_tiles, full, free, rows_ptr, expert_ptr, totals_ptr,
                num_pairs, per_token, size_k, size_n, GROUP, STAGES, IS_FIRST,
            )),
        ],
        [4, COPY_WARPS], [REGISTERS, COPY_REGS],
    )  # fmt: skip


def suits(x: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, block_rows: int) -> bool:
    """Whether these kernels take the product: fp8 on both sides, scales of blocks, many rows per expert."""
    return w_scale.dim() == 3 and x.dtype == w.dtype and block_rows == TILE_ROWS and x.shape[0] > 0


def launch_gemm1_sm90(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    out: torch.Tensor, per_token: int, x_scale: torch.Tensor, w_scale: torch.Tensor, num_programs: int,
) -> None:  # fmt: skip
    """Write `out` [R, I]; for products that suit."""
    depth = w13.shape[2]
    weights = TensorDescriptor.from_tensor(w13.view(-1, depth), [TILE_COLS // 2, SCALE_GROUP], SWIZZLED_FP8)
    gemm_sm90_kernel[(num_programs,)](
        x, weights, x_scale, w_scale, out, rows, expert, totals, x.shape[0] * per_token, per_token, depth,
        w13.shape[1] // 2, GROUP=GROUP1, STAGES=NUM_STAGES, IS_FIRST=True, SHARED=SWIZZLED_FP8,
        COPY_WARPS=GATHER_WARPS, REGISTERS=MULTIPLY_REGISTERS, COPY_REGS=GATHER_REGISTERS, num_warps=4,
    )  # fmt: skip


def launch_gemm2_sm90(
    h: torch.Tensor, w2: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor, out: torch.Tensor,
    h_scale: torch.Tensor, w_scale: torch.Tensor, num_programs: int,
) -> None:  # fmt: skip
    """Write `out` [R, H]; else as `launch_gemm1_sm90`."""
    depth = w2.shape[2]
    activations = TensorDescriptor.from_tensor(h, [TILE_ROWS, SCALE_GROUP], SWIZZLED_FP8)
    weights = TensorDescriptor.from_tensor(w2.view(-1, depth), [TILE_COLS, SCALE_GROUP], SWIZZLED_FP8)
    gemm_sm90_kernel[(num_programs,)](
        activations, weights, h_scale, w_scale, out, expert, expert, totals, 1, 1, depth, w2.shape[1],
        GROUP=GROUP2, STAGES=NUM_STAGES, IS_FIRST=False, SHARED=SWIZZLED_FP8, COPY_WARPS=1,
        REGISTERS=MULTIPLY_REGISTERS, COPY_REGS=COPY_REGISTERS, num_warps=4,
    )  # fmt: skip
