"""Grouped-query decode attention in Triton: program (sequence, kv head, split). Legend as in paged_attention.py.

The G query heads of a kv head fill the rows of one product, so that keys and values are read once for all of them.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import arch_of, ceil_div, next_power_of_2
from proa_kernels.decode_splits import GQA_TILE, LOG2_E, DecodeTile, Parts, num_splits, softmax_step, split_range


@triton.jit
def gqa_decode_kernel(
    q_ptr, cache_ptr, table_ptr, lengths_ptr, out_ptr, sums_ptr, logs_ptr, scale, size_block, table_width,
    K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, IS_SPLIT: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    group_tiles: tl.constexpr = (G + ROWS - 1) // ROWS
    kv_head = tl.program_id(1) // group_tiles
    g = tl.program_id(1) % group_tiles * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, DP)
    row = (b * K + kv_head) * G + g
    is_row = (g < G)[:, None] & (d < D)[None, :]
    q = tl.load(q_ptr + row[:, None] * D + d[None, :], mask=is_row, other=0.0)
    start, end = split_range(tl.load(lengths_ptr + b).to(tl.int32), KEYS)
    peak = tl.full([ROWS], -1.0e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DP], tl.float32)
    table = table_ptr + b * table_width
    key = start + tl.arange(0, KEYS)
    page = tl.load(table + key // PAGE, mask=key < end, other=0)
    for first in range(start, end, KEYS):
        key = first + tl.arange(0, KEYS)
        is_key = key < end
        here_page = page.to(tl.int64)
        page = tl.load(table + (key + KEYS) // PAGE, mask=key + KEYS < end, other=0)  # one tile ahead of its keys
        k_row = cache_ptr + here_page * size_block + (kv_head * PAGE + key % PAGE) * D
        here = is_key[:, None] & (d < D)[None, :]
        k = tl.load(k_row[:, None] + d[None, :], mask=here, other=0.0)
        v = tl.load(k_row[:, None] + K * PAGE * D + d[None, :], mask=here, other=0.0)
        scores = tl.where(is_key[None, :], tl.dot(q, tl.trans(k)), float("-inf"))
        weights, factor, peak, total = softmax_step(scores, scale, peak, total)
        acc = tl.dot(weights.to(v.dtype), v, acc * factor[:, None])
    divisor = tl.where(total > 0.0, total, 1.0)
    out = acc / divisor[:, None]
    if IS_SPLIT:
        part = row * tl.num_programs(2) + tl.program_id(2)
        tl.store(sums_ptr + part[:, None] * D + d[None, :], out, mask=is_row)
        tl.store(logs_ptr + part, tl.where(total > 0.0, peak + tl.log2(divisor), float("-inf")), mask=g < G)
    else:
        tl.store(out_ptr + row[:, None] * D + d[None, :], out.to(out_ptr.dtype.element_ty), mask=is_row)


def launch_gqa_decode(
    q_BHD: torch.Tensor, cache_X2KSD: torch.Tensor, table_BN: torch.Tensor, lengths_B: torch.Tensor, scale: float,
    out_BHD: torch.Tensor, tile: DecodeTile | None = None, splits: int | None = None,
) -> None:  # fmt: skip
    """Fill `out_BHD`; `tile` and `splits` override what the shapes call for."""
    batch, num_heads, dim = q_BHD.shape
    if q_BHD.numel() == 0:
        return
    num_kv_heads, page_tokens = cache_X2KSD.shape[2:4]
    arch = arch_of(q_BHD.device)
    tile = tile or GQA_TILE[arch.name]
    group = num_heads // num_kv_heads
    columns = num_kv_heads * ceil_div(group, tile.rows)
    max_keys = table_BN.shape[1] * page_tokens
    splits = splits or num_splits(batch * columns, max_keys, arch, tile)
    parts = Parts.empty(out_BHD, splits)
    gqa_decode_kernel[(batch, columns, splits)](
        q_BHD, cache_X2KSD, table_BN, lengths_B, out_BHD, parts.sums, parts.logs, scale * LOG2_E,
        cache_X2KSD.stride(0), table_BN.shape[1], K=num_kv_heads, G=group, D=dim, DP=next_power_of_2(dim),
        PAGE=page_tokens, ROWS=tile.rows, KEYS=tile.keys, IS_SPLIT=splits > 1,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if splits > 1:
        parts.merge_into(out_BHD, splits)
