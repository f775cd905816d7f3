"""Latent decode attention in Triton: program (sequence, tile of heads, split). Legend as in paged_attention.py.

All heads share one cached row per token, whose first R numbers are key and value at once: a tile of them is loaded once
and used by both products.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import Arch, arch_of, ceil_div, next_power_of_2
from proa_kernels.decode_splits import (
    LOG2_E,
    MLA_FEW_HEADS,
    MLA_MANY_HEADS,
    DecodeTile,
    Parts,
    num_splits,
    softmax_step,
    split_range,
)


@triton.jit
def mla_decode_kernel(
    q_ptr, q_rot_ptr, cache_ptr, table_ptr, lengths_ptr, out_ptr, sums_ptr, logs_ptr, scale,
    size_block, table_width, size_qb, size_qh, size_rb, size_rh,
    H: tl.constexpr, R: tl.constexpr, ROT: tl.constexpr, RP: tl.constexpr, OP: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, IS_SPLIT: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    r = tl.arange(0, RP)
    o = tl.arange(0, OP)
    is_row = (h < H)[:, None]
    in_r = (r < R)[None, :]
    in_o = (o < ROT)[None, :]
    q = tl.load(q_ptr + b * size_qb + h[:, None] * size_qh + r[None, :], mask=is_row & in_r, other=0.0)
    q_rot = tl.load(q_rot_ptr + b * size_rb + h[:, None] * size_rh + o[None, :], mask=is_row & in_o, other=0.0)
    start, end = split_range(tl.load(lengths_ptr + b).to(tl.int32), KEYS)
    peak = tl.full([ROWS], -1.0e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, RP], tl.float32)
    table = table_ptr + b * table_width
    key = start + tl.arange(0, KEYS)
    page = tl.load(table + key // PAGE, mask=key < end, other=0)
    for first in range(start, end, KEYS):
        key = first + tl.arange(0, KEYS)
        is_key = key < end
        here_page = page.to(tl.int64)
        page = tl.load(table + (key + KEYS) // PAGE, mask=key + KEYS < end, other=0)  # one tile ahead of its keys
        place = cache_ptr + here_page * size_block + (key % PAGE) * (R + ROT)
        latent = tl.load(place[:, None] + r[None, :], mask=is_key[:, None] & in_r, other=0.0)
        k_rot = tl.load(place[:, None] + R + o[None, :], mask=is_key[:, None] & in_o, other=0.0)
        scores = tl.dot(q_rot, tl.trans(k_rot), tl.dot(q, tl.trans(latent)))
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        weights, factor, peak, total = softmax_step(scores, scale, peak, total)
        acc = tl.dot(weights.to(latent.dtype), latent, acc * factor[:, None])
    divisor = tl.where(total > 0.0, total, 1.0)
    out = acc / divisor[:, None]
    row = b * H + h
    if IS_SPLIT:
        part = row * tl.num_programs(2) + tl.program_id(2)
        tl.store(sums_ptr + part[:, None] * R + r[None, :], out, mask=is_row & in_r)
        tl.store(logs_ptr + part, tl.where(total > 0.0, peak + tl.log2(divisor), float("-inf")), mask=h < H)
    else:
        tl.store(out_ptr + row[:, None] * R + r[None, :], out.to(out_ptr.dtype.element_ty), mask=is_row & in_r)


def mla_tile(num_heads: int, arch: Arch) -> DecodeTile:
    few = MLA_FEW_HEADS[arch.name]
    return few if num_heads <= few.rows else MLA_MANY_HEADS[arch.name]


def _splits(q_BHR: torch.Tensor, max_keys: int, arch: Arch, tile: DecodeTile) -> int:
    return num_splits(q_BHR.shape[0] * ceil_div(q_BHR.shape[1], tile.rows), max_keys, arch, tile)


def launch_mla_decode(
    q_BHR: torch.Tensor, q_BHO: torch.Tensor, cache_XSC: torch.Tensor, table_BN: torch.Tensor, lengths_B: torch.Tensor,
    scale: float, out_BHR: torch.Tensor, tile: DecodeTile | None = None, splits: int | None = None,
) -> None:  # fmt: skip
    """Fill `out_BHR`; `tile` and `splits` override what the shapes call for."""
    batch, num_heads, rank = q_BHR.shape
    if q_BHR.numel() == 0:
        return
    arch, page_tokens, num_rotated = arch_of(q_BHR.device), cache_XSC.shape[1], q_BHO.shape[2]
    max_keys = table_BN.shape[1] * page_tokens
    if tile is None and arch.name == "sm90":
        from proa_kernels import mla_decode_sm90  # other GPUs need no Gluon

        if mla_decode_sm90.suits(q_BHR, q_BHO, cache_XSC, max_keys):
            splits = splits or _splits(q_BHR, max_keys, arch, mla_tile(num_heads, arch))
            mla_decode_sm90.launch_mla_decode_sm90(q_BHR, q_BHO, cache_XSC, table_BN, lengths_B, scale, out_BHR, splits)
            return
    tile = tile or mla_tile(num_heads, arch)
    columns = ceil_div(num_heads, tile.rows)
    splits = splits or _splits(q_BHR, max_keys, arch, tile)
    parts = Parts.empty(out_BHR, splits)
    mla_decode_kernel[(batch, columns, splits)](
        q_BHR, q_BHO, cache_XSC, table_BN, lengths_B, out_BHR, parts.sums, parts.logs, scale * LOG2_E,
        cache_XSC.stride(0), table_BN.shape[1], *q_BHR.stride()[:2], *q_BHO.stride()[:2],
        H=num_heads, R=rank, ROT=num_rotated, RP=next_power_of_2(rank), OP=next_power_of_2(num_rotated),
        PAGE=page_tokens, ROWS=tile.rows, KEYS=tile.keys, IS_SPLIT=splits > 1,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    if splits > 1:
        parts.merge_into(out_BHR, splits)
