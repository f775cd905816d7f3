"""Prefill attention for sm90 in Gluon: two groups of warps attend to 64 rows each, one warp copies pages ahead of them.

Legend and order of the rows as in prefill_triton.py. While one group computes softmax, the other multiplies; and each
starts the scores of its next tile before it adds the values of this one (FlashAttention-3, arXiv:2407.08608).
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
from proa_kernels.decode_splits import LOG2_E
from proa_kernels.sm90_tiles import (
    SLAB,
    SWIZZLED_HALVES,
    can_describe,
    clear_rows,
    page_number,
    page_numbers,
    page_rows,
    sync_warps,
)

TILE_ROWS, TILE_KEYS, NUM_STAGES = 128, 128, 2
ROWS, KEYS, STAGES = gl.constexpr(TILE_ROWS), gl.constexpr(TILE_KEYS), gl.constexpr(NUM_STAGES)
HALF = gl.constexpr(TILE_ROWS // 2)
MIN_KEYS = 512  # below, the start of a program weighs more than its products: several smaller ones at once hide it
ATTEND_REGISTERS, COPY_REGISTERS = 232, 40


@gluon.jit
def _copy_tile(desc, tile, full, pages, row0, rows_apart, D: gl.constexpr, PAGE: gl.constexpr):
    mbarrier.expect(full, KEYS * D * 2)
    for p in gl.static_range(KEYS // PAGE):
        row = page_number(pages, p) * rows_apart + row0
        for i in gl.static_range(D // SLAB):
            part = tile.slice(i * SLAB, SLAB, dim=1).slice(p * PAGE, PAGE, dim=0)
            tma.async_copy_global_to_shared(desc, [row, i * SLAB], full, part)


@gluon.jit
def _copy(
    desc, k_tiles, v_tiles, k_full, v_full, k_free, v_free, table, end, rows_apart, kv_head,
    K: gl.constexpr, D: gl.constexpr, PAGE: gl.constexpr,
):  # fmt: skip
    next_pages = page_numbers(table, 0, end, KEYS // PAGE, PAGE)
    for first in range(0, end, KEYS):
        step = first // KEYS
        s = step % STAGES
        phase = ((step // STAGES) & 1) ^ 1
        pages = next_pages
        next_pages = page_numbers(table, first + KEYS, end, KEYS // PAGE, PAGE)
        mbarrier.wait(k_free.index(s), phase)
        _copy_tile(desc, k_tiles.index(s), k_full.index(s), pages, kv_head * PAGE, rows_apart, D, PAGE)
        mbarrier.wait(v_free.index(s), phase)
        _copy_tile(desc, v_tiles.index(s), v_full.index(s), pages, (K + kv_head) * PAGE, rows_apart, D, PAGE)


@gluon.jit
def _release(free):
    sync_warps()
    mbarrier.arrive(free, count=1)


@gluon.jit
def _weigh(scores, key, last, unmasked, scale, peak, total):
    """As `decode_splits.softmax_step`, for keys up to `last` of each row; every row sees the first `unmasked` keys."""
    if unmasked < KEYS:
        scores = gl.where(key[None, :] <= last[:, None], scores, float("-inf"))
    new_peak = gl.maximum(peak, gl.max(scores, 1) * scale)
    factor = gl.exp2(peak - new_peak)
    weights = gl.exp2(scores * scale - new_peak[:, None])
    return weights, factor, new_peak, total * factor + gl.sum(weights, 1)


@gluon.jit
def _attend(
    half: gl.constexpr, q_tile, k_tiles, v_tiles, k_full, v_full, k_free, v_free, out_ptr, begin, count, prefix, tile,
    kv_head, scale, K: gl.constexpr, G: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    """Rows 64 `half` and on of the tile."""
    scored: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    summed: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, summed, 2)
    tokens: gl.constexpr = ROWS // G
    q = q_tile.slice(half * HALF, HALF)
    key = gl.arange(0, KEYS, layout=gl.SliceLayout(0, scored))
    last = prefix + tile * tokens + (half * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(1, scored))) // G
    end = prefix + gl.minimum((tile + 1) * tokens, count)
    unmasked = prefix + tile * tokens + 1
    peak = gl.full([HALF], -1.0e30, gl.float32, gl.SliceLayout(1, scored))
    total = gl.zeros([HALF], gl.float32, gl.SliceLayout(1, scored))
    zero = gl.zeros([HALF, KEYS], gl.float32, scored)
    acc = gl.zeros([HALF, D], gl.float32, summed)
    mbarrier.wait(k_full.index(0), 0)
    scores = warpgroup_mma(q, k_tiles.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, [scores])
    _release(k_free.index(0))
    weights, factor, peak, total = _weigh(scores, key, last, unmasked, scale, peak, total)
    p = gl.convert_layout(weights.to(q_tile.dtype), left)
    step = 1
    for first in range(KEYS, end, KEYS):
        s = step % STAGES
        before = (step - 1) % STAGES
        mbarrier.wait(k_full.index(s), (step // STAGES) & 1)
        scores = warpgroup_mma(q, k_tiles.index(s).permute((1, 0)), zero, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(before), ((step - 1) // STAGES) & 1)
        pending = warpgroup_mma(p, v_tiles.index(before), acc, is_async=True)
        scores = warpgroup_mma_wait(1, [scores])
        _release(k_free.index(s))
        weights, factor, peak, total = _weigh(scores, first + key, last, unmasked - first, scale, peak, total)
        next_p = gl.convert_layout(weights.to(q_tile.dtype), left)
        acc, _, p = warpgroup_mma_wait(0, [pending, p, next_p])  # the products read `p` until here
        _release(v_free.index(before))
        acc = acc * gl.convert_layout(factor, gl.SliceLayout(1, summed))[:, None]
        step += 1
    before = (step - 1) % STAGES
    mbarrier.wait(v_full.index(before), ((step - 1) // STAGES) & 1)
    if step * KEYS > end:  # both groups write the same zeros, and the rows that the other reads as they were
        clear_rows(v_tiles.index(before), end - (step - 1) * KEYS, KEYS, D)
    acc = warpgroup_mma_wait(0, [warpgroup_mma(p, v_tiles.index(before), acc, is_async=True)])
    _store(half, acc, total, out_ptr, begin, count, tile, kv_head, K, G, D)


@gluon.jit
def _store(
    half: gl.constexpr, acc, total, out_ptr, begin, count, tile, kv_head,
    K: gl.constexpr, G: gl.constexpr, D: gl.constexpr,
):  # fmt: skip
    layout: gl.constexpr = acc.type.layout
    out = acc / gl.convert_layout(total, gl.SliceLayout(1, layout))[:, None]
    row = half * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(1, layout))
    token = tile * (ROWS // G) + row // G
    d = gl.arange(0, D, layout=gl.SliceLayout(0, layout))
    place = ((begin + token) * (K * G) + kv_head * G + row % G)[:, None] * D + d[None, :]
    gl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=(token < count)[:, None])


@gluon.jit
def _load_queries(q_ptr, q_tile, begin, count, tile, kv_head, K: gl.constexpr, G: gl.constexpr, D: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, layout))
    token = tile * (ROWS // G) + row // G
    d = gl.arange(0, D, layout=gl.SliceLayout(0, layout))
    place = ((begin + token) * (K * G) + kv_head * G + row % G)[:, None] * D + d[None, :]
    q_tile.store(gl.load(q_ptr + place, mask=(token < count)[:, None], other=0.0))
    fence_async_shared()
    sync_warps()


@gluon.jit
def prefill_sm90_kernel(
    q_ptr, desc, table_ptr, starts_ptr, prefixes_ptr, out_ptr, scale, rows_apart, table_width,
    K: gl.constexpr, G: gl.constexpr, D: gl.constexpr, PAGE: gl.constexpr, SHARED: gl.constexpr,
    REGISTERS: gl.constexpr, COPY_REGS: gl.constexpr,
):  # fmt: skip
    tile = gl.num_programs(0) - 1 - gl.program_id(0)  # the last tile sees most keys: start with it
    kv_head = gl.program_id(1)
    chunk = gl.program_id(2)
    begin = gl.load(starts_ptr + chunk).to(gl.int64)
    count = (gl.load(starts_ptr + chunk + 1).to(gl.int64) - begin).to(gl.int32)
    if tile * (ROWS // G) < count:
        prefix = gl.load(prefixes_ptr + chunk).to(gl.int32)
        q_tile = gl.allocate_shared_memory(desc.dtype, [ROWS, D], SHARED)
        k_tiles = gl.allocate_shared_memory(desc.dtype, [STAGES, KEYS, D], SHARED)
        v_tiles = gl.allocate_shared_memory(desc.dtype, [STAGES, KEYS, D], SHARED)
        k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
        for s in gl.static_range(STAGES):
            mbarrier.init(k_full.index(s), count=1)
            mbarrier.init(v_full.index(s), count=1)
            mbarrier.init(k_free.index(s), count=2)
            mbarrier.init(v_free.index(s), count=2)
        _load_queries(q_ptr, q_tile, begin, count, tile, kv_head, K, G, D)
        table = table_ptr + chunk.to(gl.int64) * table_width
        end = prefix + gl.minimum((tile + 1) * (ROWS // G), count)
        gl.warp_specialize(
            [
                (_attend, (
                    0, q_tile, k_tiles, v_tiles, k_full, v_full, k_free, v_free, out_ptr, begin, count, prefix, tile,
                    kv_head, scale, K, G, D,
                )),
                (_attend, (
                    1, q_tile, k_tiles, v_tiles, k_full, v_full, k_free, v_free, out_ptr, begin, count, prefix, tile,
                    kv_head, scale, K, G, D,
                )),
                (_copy, (
                    desc, k_tiles, v_tiles, k_full, v_full, k_free, v_free, table, end, rows_apart, kv_head,
                    K, D, PAGE,
                )),
            ],
            [4, 1], [REGISTERS, COPY_REGS],
        )  # fmt: skip


def suits(q_THD: torch.Tensor, cache_X2KSD: torch.Tensor, max_keys: int) -> bool:
    """Whether this kernel takes the shapes and is expected to be the faster one."""
    _, _, num_kv_heads, page_tokens, dim = cache_X2KSD.shape
    is_shape = dim in (64, 128) and TILE_ROWS % (q_THD.shape[1] // num_kv_heads) == 0
    return is_shape and max_keys >= MIN_KEYS and can_describe(cache_X2KSD, page_tokens, dim)


def launch_prefill_sm90(
    q_THD: torch.Tensor, cache_X2KSD: torch.Tensor, table_CN: torch.Tensor, starts: torch.Tensor,
    prefixes_C: torch.Tensor, max_tokens: int, scale: float, out_THD: torch.Tensor,
) -> None:  # fmt: skip
    """Fill `out_THD`; for shapes that suit."""
    num_heads, dim = q_THD.shape[1:]
    num_kv_heads, page_tokens = cache_X2KSD.shape[2:4]
    group = num_heads // num_kv_heads
    desc, rows_apart = page_rows(cache_X2KSD, page_tokens, dim)
    prefill_sm90_kernel[(ceil_div(max_tokens, TILE_ROWS // group), num_kv_heads, prefixes_C.shape[0])](
        q_THD, desc, table_CN, starts, prefixes_C, out_THD, scale * LOG2_E, rows_apart, table_CN.shape[1],
        K=num_kv_heads, G=group, D=dim, PAGE=page_tokens, SHARED=SWIZZLED_HALVES, REGISTERS=ATTEND_REGISTERS,
        COPY_REGS=COPY_REGISTERS, num_warps=4,
    )  # fmt: skip
