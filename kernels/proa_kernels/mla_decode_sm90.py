"""Latent decode attention of many heads for sm90 in Gluon: program (tile of 64 heads, sequence, split).

Legend as in paged_attention.py. The sums of 64 heads fill the registers of two groups of warps, 256 columns each, and
two tiles of 64 keys fill shared memory. Group w scores tile w; both agree on the running maximum, each weighs its own
scores, and adds the values of both tiles to its half of the columns (the division of work is FlashMLA's). Its own half
of its own tile comes first and is free first, so that one warp copies pages ahead half a tile at a time.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from proa_kernels.arch import ceil_div
from proa_kernels.decode_splits import LOG2_E, Parts
from proa_kernels.sm90_tiles import (
    SLAB,
    SLAB_COLS,
    SWIZZLED_HALVES,
    can_describe,
    clear_rows,
    page_number,
    page_numbers,
    page_rows,
    sync_warps,
)

TILE_ROWS, TILE_KEYS = 64, 64
ROWS, KEYS = gl.constexpr(TILE_ROWS), gl.constexpr(TILE_KEYS)
RANK = 512
MIN_KEYS = 512  # at 160 the Triton kernel is a little faster, at 1024 this one by a third
ATTEND_REGISTERS, COPY_REGISTERS = 240, 24


@gluon.jit
def _range(lengths_ptr):
    """As `decode_splits.split_range`, for this grid."""
    length = gl.load(lengths_ptr + gl.program_id(1)).to(gl.int32)
    run = gl.cdiv(gl.cdiv(length, KEYS), gl.num_programs(2)) * KEYS
    start = gl.program_id(2) * run
    return start, gl.minimum(start + run, length)


@gluon.jit
def _copy_half(
    w: gl.constexpr, half: gl.constexpr, desc, tiles, rotated, full, free, phase, pages, rows_apart,
    R: gl.constexpr, PAGE: gl.constexpr,
):  # fmt: skip
    """Slabs of the left (0) or right (1) half of tile `w`, the latter with the rotated ones."""
    slabs: gl.constexpr = R // SLAB // 2
    parts: gl.constexpr = KEYS // PAGE
    bar = full.index(2 * w + half)
    mbarrier.wait(free.index(2 * w + half), phase)
    mbarrier.expect(bar, KEYS * SLAB * 2 * (slabs + half))
    for p in gl.static_range(parts):
        row = page_number(pages, w * parts + p) * rows_apart
        for i in gl.static_range(slabs):
            slab = tiles.index(w).slice((half * slabs + i) * SLAB, SLAB, dim=1)
            part = slab.slice(p * PAGE, PAGE, dim=0)
            tma.async_copy_global_to_shared(desc, [row, (half * slabs + i) * SLAB], bar, part)
        if half == 1:
            tma.async_copy_global_to_shared(desc, [row, R], bar, rotated.index(w).slice(p * PAGE, PAGE, dim=0))


@gluon.jit
def _copy(
    desc, table_ptr, tiles, rotated, full, free, lengths_ptr, table_width, rows_apart,
    R: gl.constexpr, PAGE: gl.constexpr,
):  # fmt: skip
    start, end = _range(lengths_ptr)
    table = table_ptr + gl.program_id(1).to(gl.int64) * table_width
    phase = 1
    next_pages = page_numbers(table, start, end, 2 * KEYS // PAGE, PAGE)
    for first in range(start, end, 2 * KEYS):
        pages = next_pages
        next_pages = page_numbers(table, first + 2 * KEYS, end, 2 * KEYS // PAGE, PAGE)
        _copy_half(0, 0, desc, tiles, rotated, full, free, phase, pages, rows_apart, R, PAGE)
        _copy_half(1, 1, desc, tiles, rotated, full, free, phase, pages, rows_apart, R, PAGE)
        _copy_half(0, 1, desc, tiles, rotated, full, free, phase, pages, rows_apart, R, PAGE)
        _copy_half(1, 0, desc, tiles, rotated, full, free, phase, pages, rows_apart, R, PAGE)
        phase ^= 1


@gluon.jit
def _exchange(w: gl.constexpr, board, bars, phase, rows):
    """Leave `rows` on the board; the other group's."""
    board.index(w).store(rows)
    sync_warps()
    mbarrier.arrive(bars.index(w), count=1)
    mbarrier.wait(bars.index(1 - w), phase)
    return board.index(1 - w).load(rows.type.layout)


@gluon.jit
def _score(w: gl.constexpr, q_tile, q_rotated, tile, rotated, full, phase, R: gl.constexpr):
    """Scores of tile w, its own half first, and the rotated queries, which the products read until here."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    half: gl.constexpr = R // 2
    zero = gl.zeros([ROWS, KEYS], gl.float32, layout)
    mbarrier.wait(full.index(3 * w), phase)
    own = tile.slice(w * half, half, dim=1).permute((1, 0))
    scores = warpgroup_mma(q_tile.slice(w * half, half, dim=1), own, zero, use_acc=False, is_async=True)
    mbarrier.wait(full.index(1 + w), phase)
    other = tile.slice((1 - w) * half, half, dim=1).permute((1, 0))
    scores = warpgroup_mma(q_tile.slice((1 - w) * half, half, dim=1), other, scores, is_async=True)
    scores = warpgroup_mma(q_rotated, rotated.permute((1, 0)), scores, is_async=True)
    return warpgroup_mma_wait(0, [scores, q_rotated])


@gluon.jit
def _attend(
    w: gl.constexpr, q_tile, q_rot_ptr, size_rh, p_tiles, board, tiles, rotated, full, free, peaks, weighed,
    lengths_ptr, out_ptr, sums_ptr, logs_ptr, scale, H: gl.constexpr, R: gl.constexpr, IS_SPLIT: gl.constexpr,
):  # fmt: skip
    """Columns R / 2 `w` and on."""
    scored: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    summed: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, R // 2, 16])
    half: gl.constexpr = R // 2
    start, end = _range(lengths_ptr)
    q_rotated = _load_rotated(q_rot_ptr, size_rh, H, gl.DotOperandLayout(0, scored, 2))
    key = w * KEYS + gl.arange(0, KEYS, layout=gl.SliceLayout(0, scored))
    peak = gl.full([ROWS], -1.0e30, gl.float32, gl.SliceLayout(1, scored))
    total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, scored))
    acc = gl.zeros([ROWS, half], gl.float32, summed)
    own_values = tiles.index(w).slice(w * half, half, dim=1)
    other_values = tiles.index(1 - w).slice(w * half, half, dim=1)
    phase = 0
    for first in range(start, end, 2 * KEYS):
        scores, q_rotated = _score(w, q_tile, q_rotated, tiles.index(w), rotated.index(w), full, phase, R)
        if first + (w + 1) * KEYS > end:
            scores = gl.where((first + key < end)[None, :], scores, float("-inf"))
            clear_rows(tiles.index(w), end - first - w * KEYS, KEYS, R)
        here = gl.max(scores, 1) * scale
        new_peak = gl.maximum(gl.maximum(peak, here), _exchange(w, board, peaks, phase, here))
        factor = gl.exp2(peak - new_peak)
        weights = gl.exp2(scores * scale - new_peak[:, None])
        peak = new_peak
        total = total * factor + gl.sum(weights, 1)
        p = weights.to(q_tile.dtype)
        p_tiles.index(w).store(p)
        fence_async_shared()
        sync_warps()
        mbarrier.arrive(weighed.index(w), count=1)
        acc = acc * gl.convert_layout(factor, gl.SliceLayout(1, summed))[:, None]
        p = gl.convert_layout(p, gl.DotOperandLayout(0, summed, 2))
        pending = warpgroup_mma(p, own_values, acc, is_async=True)
        mbarrier.wait(weighed.index(1 - w), phase)
        pending = warpgroup_mma(p_tiles.index(1 - w), other_values, pending, is_async=True)
        p = warpgroup_mma_wait(1, [p])
        sync_warps()
        mbarrier.arrive(free.index(3 * w), count=1)
        acc = warpgroup_mma_wait(0, [pending])
        sync_warps()
        mbarrier.arrive(free.index(2 - w), count=1)
        phase ^= 1
    total += _exchange(w, board, peaks, phase, total)
    _store(w, acc, peak, total, out_ptr, sums_ptr, logs_ptr, H, R, IS_SPLIT)


@gluon.jit
def _load_rotated(q_rot_ptr, size_rh, H: gl.constexpr, LAYOUT: gl.constexpr):
    h = gl.program_id(0) * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, LAYOUT))
    o = gl.arange(0, SLAB, layout=gl.SliceLayout(0, LAYOUT))
    return gl.load(q_rot_ptr + h[:, None] * size_rh + o[None, :], mask=(h < H)[:, None], other=0.0)


@gluon.jit
def _store(
    w: gl.constexpr, acc, peak, total, out_ptr, sums_ptr, logs_ptr,
    H: gl.constexpr, R: gl.constexpr, IS_SPLIT: gl.constexpr,
):  # fmt: skip
    layout: gl.constexpr = acc.type.layout
    divisor = gl.where(total > 0.0, total, 1.0)
    out = acc / gl.convert_layout(divisor, gl.SliceLayout(1, layout))[:, None]
    h = gl.program_id(0) * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    r = w * (R // 2) + gl.arange(0, R // 2, layout=gl.SliceLayout(0, layout))
    row = gl.program_id(1).to(gl.int64) * H + h
    if IS_SPLIT:
        part = row * gl.num_programs(2) + gl.program_id(2)
        gl.store(sums_ptr + part[:, None] * R + r[None, :], out, mask=(h < H)[:, None])
        if w == 0:
            log = gl.where(total > 0.0, peak + gl.log2(divisor), float("-inf"))
            gl.store(logs_ptr + part, gl.convert_layout(log, part.type.layout), mask=h < H)
    else:
        gl.store(out_ptr + row[:, None] * R + r[None, :], out.to(out_ptr.dtype.element_ty), mask=(h < H)[:, None])


@gluon.jit
def _load_queries(q_ptr, size_qh, q_tile, H: gl.constexpr, R: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    h = gl.program_id(0) * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    r = gl.arange(0, SLAB, layout=gl.SliceLayout(0, layout))
    for i in gl.static_range(R // SLAB):
        slab = gl.load(q_ptr + h[:, None] * size_qh + (i * SLAB + r)[None, :], mask=(h < H)[:, None], other=0.0)
        q_tile.slice(i * SLAB, SLAB, dim=1).store(slab)
    fence_async_shared()
    sync_warps()


@gluon.jit
def mla_decode_sm90_kernel(
    q_ptr, q_rot_ptr, desc, table_ptr, lengths_ptr, out_ptr, sums_ptr, logs_ptr, scale,
    rows_apart, table_width, size_qb, size_qh, size_rb, size_rh,
    H: gl.constexpr, R: gl.constexpr, PAGE: gl.constexpr, IS_SPLIT: gl.constexpr, SHARED: gl.constexpr,
    REGISTERS: gl.constexpr, COPY_REGS: gl.constexpr,
):  # fmt: skip
    """Bars number the halves 2 tile + half."""
    q_tile = gl.allocate_shared_memory(desc.dtype, [ROWS, R], SHARED)
    p_tiles = gl.allocate_shared_memory(desc.dtype, [2, ROWS, KEYS], SHARED)
    tiles = gl.allocate_shared_memory(desc.dtype, [2, KEYS, R], SHARED)
    rotated = gl.allocate_shared_memory(desc.dtype, [2, KEYS, SLAB], SHARED)
    board = gl.allocate_shared_memory(gl.float32, [2, ROWS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    full = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [4, 1], mbarrier.MBarrierLayout())
    peaks = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    weighed = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(4):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(free.index(i), count=1)
    for i in gl.static_range(2):
        mbarrier.init(peaks.index(i), count=1)
        mbarrier.init(weighed.index(i), count=1)
    b = gl.program_id(1).to(gl.int64)
    _load_queries(q_ptr + b * size_qb, size_qh, q_tile, H, R)
    q_rotated = q_rot_ptr + b * size_rb
    gl.warp_specialize(
        [
            (_attend, (
                0, q_tile, q_rotated, size_rh, p_tiles, board, tiles, rotated, full, free, peaks, weighed,
                lengths_ptr, out_ptr, sums_ptr, logs_ptr, scale, H, R, IS_SPLIT,
            )),
            (_attend, (
                1, q_tile, q_rotated, size_rh, p_tiles, board, tiles, rotated, full, free, peaks, weighed,
                lengths_ptr, out_ptr, sums_ptr, logs_ptr, scale, H, R, IS_SPLIT,
            )),
            (_copy, (
                desc, table_ptr, tiles, rotated, full, free, lengths_ptr, table_width, rows_apart, R, PAGE,
            )),
        ],
        [4, 1], [REGISTERS, COPY_REGS],
    )  # fmt: skip


def suits(q_BHR: torch.Tensor, q_BHO: torch.Tensor, cache_XSC: torch.Tensor, max_keys: int) -> bool:
    """Whether this kernel takes the shapes and is expected to be the faster one."""
    _, page_tokens, width = cache_XSC.shape
    is_shape = q_BHR.shape[2] == RANK and q_BHO.shape[2] == SLAB_COLS and q_BHR.shape[1] >= TILE_ROWS
    return is_shape and max_keys >= MIN_KEYS and can_describe(cache_XSC, page_tokens, width)


def launch_mla_decode_sm90(
    q_BHR: torch.Tensor, q_BHO: torch.Tensor, cache_XSC: torch.Tensor, table_BN: torch.Tensor, lengths_B: torch.Tensor,
    scale: float, out_BHR: torch.Tensor, splits: int,
) -> None:  # fmt: skip
    """Fill `out_BHR`; for shapes that suit."""
    batch, num_heads, rank = q_BHR.shape
    page_tokens, width = cache_XSC.shape[1:]
    desc, rows_apart = page_rows(cache_XSC, page_tokens, width)
    parts = Parts.empty(out_BHR, splits)
    mla_decode_sm90_kernel[(ceil_div(num_heads, TILE_ROWS), batch, splits)](
        q_BHR, q_BHO, desc, table_BN, lengths_B, out_BHR, parts.sums, parts.logs, scale * LOG2_E, rows_apart,
        table_BN.shape[1], *q_BHR.stride()[:2], *q_BHO.stride()[:2], H=num_heads, R=rank, PAGE=page_tokens,
        IS_SPLIT=splits > 1, SHARED=SWIZZLED_HALVES, REGISTERS=ATTEND_REGISTERS, COPY_REGS=COPY_REGISTERS, num_warps=4,
    )  # fmt: skip
    if splits > 1:
        parts.merge_into(out_BHR, splits)
