"""Prefill attention in Triton: program (tile of tokens, kv head, chunk). Legend as in paged_prefill.py.

The G query heads of a kv head are rows beside each other, so that short chunks still fill a tile and each key is read
once for all of them. Keys that every row of a tile sees need no mask; only the tiles on the diagonal do.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from proa_kernels.arch import ArchName, arch_of, ceil_div, next_power_of_2
from proa_kernels.decode_splits import LOG2_E, DecodeTile, softmax_step

PREFILL_TILE: Mapping[ArchName, DecodeTile] = {
    "cpu": DecodeTile(rows=16, keys=16, num_warps=1, num_stages=1),
    "sm90": DecodeTile(rows=64, keys=64, num_warps=4, num_stages=3),
    "gfx942": DecodeTile(rows=128, keys=64, num_warps=4, num_stages=1),
    "gfx950": DecodeTile(rows=128, keys=64, num_warps=4, num_stages=2),
}


@triton.jit
def _add_keys(
    q, first, end, last, peak, total, acc, cache_ptr, table_ptr, kv_head, d, scale, size_block,
    K: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, KEYS: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """One tile of keys from `first` on; `table_ptr` is the chunk's own row. Masked: keys past `last` do not count."""
    key = first + tl.arange(0, KEYS)
    in_d = (d < D)[None, :]
    if IS_MASKED:
        is_key = key < end
        page = tl.load(table_ptr + key // PAGE, mask=is_key, other=0).to(tl.int64)
        here = is_key[:, None] & in_d
    else:
        page = tl.load(table_ptr + key // PAGE).to(tl.int64)
        here = in_d
    place = cache_ptr + (page * size_block + (kv_head * PAGE + key % PAGE) * D)[:, None] + d[None, :]
    k = tl.load(place, mask=here, other=0.0)
    v = tl.load(place + K * PAGE * D, mask=here, other=0.0)
    scores = tl.dot(q, tl.trans(k))
    if IS_MASKED:
        scores = tl.where(key[None, :] <= last[:, None], scores, float("-inf"))
    weights, factor, peak, total = softmax_step(scores, scale, peak, total)
    return peak, total, tl.dot(weights.to(v.dtype), v, acc * factor[:, None])


@triton.jit
def gqa_prefill_kernel(
    q_ptr, cache_ptr, table_ptr, starts_ptr, prefixes_ptr, out_ptr, scale, size_block, table_width,
    K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile_tokens: tl.constexpr = ROWS // G
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the last tile sees most keys: start with it
    kv_head = tl.program_id(1)
    chunk = tl.program_id(2)
    begin = tl.load(starts_ptr + chunk).to(tl.int64)
    count = tl.load(starts_ptr + chunk + 1).to(tl.int64) - begin
    if tile * tile_tokens >= count:
        return
    prefix = tl.load(prefixes_ptr + chunk).to(tl.int32)
    row = tl.arange(0, ROWS)
    token = tile * tile_tokens + row // G
    d = tl.arange(0, DP)
    is_row = (row < tile_tokens * G) & (token < count)
    place = ((begin + token) * (K * G) + kv_head * G + row % G)[:, None] * D + d[None, :]
    here = is_row[:, None] & (d < D)[None, :]
    q = tl.load(q_ptr + place, mask=here, other=0.0)
    last = prefix + token
    end = prefix + tl.minimum((tile + 1) * tile_tokens, count.to(tl.int32))
    shared = (prefix + tile * tile_tokens + 1) // KEYS * KEYS
    peak = tl.full([ROWS], -1.0e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DP], tl.float32)
    table = table_ptr + chunk.to(tl.int64) * table_width
    for first in range(0, shared, KEYS):
        peak, total, acc = _add_keys(
            q, first, end, last, peak, total, acc, cache_ptr, table, kv_head, d, scale, size_block,
            K, D, PAGE, KEYS, False,
        )  # fmt: skip
    for first in range(shared, end, KEYS):
        peak, total, acc = _add_keys(
            q, first, end, last, peak, total, acc, cache_ptr, table, kv_head, d, scale, size_block,
            K, D, PAGE, KEYS, True,
        )  # fmt: skip
    tl.store(out_ptr + place, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=here)


def launch_gqa_prefill(
    q_THD: torch.Tensor, cache_X2KSD: torch.Tensor, table_CN: torch.Tensor, starts: torch.Tensor,
    prefixes_C: torch.Tensor, max_tokens: int, scale: float, out_THD: torch.Tensor, tile: DecodeTile | None = None,
) -> None:  # fmt: skip
    """Fill `out_THD`; `tile` overrides the table."""
    num_heads, dim = q_THD.shape[1:]
    if q_THD.numel() == 0:
        return
    num_kv_heads, page_tokens = cache_X2KSD.shape[2:4]
    group = num_heads // num_kv_heads
    arch = arch_of(q_THD.device)
    if tile is None and arch.name == "sm90":
        from proa_kernels import prefill_sm90  # other GPUs need no Gluon

        if prefill_sm90.suits(q_THD, cache_X2KSD, table_CN.shape[1] * page_tokens):
            places = (table_CN, starts, prefixes_C, max_tokens)
            prefill_sm90.launch_prefill_sm90(q_THD, cache_X2KSD, *places, scale, out_THD)
            return
    tile = tile or PREFILL_TILE[arch.name]
    rows = max(tile.rows, next_power_of_2(group))
    gqa_prefill_kernel[(ceil_div(max_tokens, rows // group), num_kv_heads, prefixes_C.shape[0])](
        q_THD, cache_X2KSD, table_CN, starts, prefixes_C, out_THD, scale * LOG2_E, cache_X2KSD.stride(0),
        table_CN.shape[1], K=num_kv_heads, G=group, D=dim, DP=next_power_of_2(dim), PAGE=page_tokens,
        ROWS=rows, KEYS=tile.keys, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
