"""Experts of a handful of pairs in two launches: weights stream once past vector units, no alignment, no atomics.

Legend as in moe_decode.py; AP is A rounded up to a power of two. The first kernel gives one pair and COLS expert
columns to each program, the second one token and COLS hidden columns, so that the weighted sum stays inside. A product
is rows of weights times one vector: tensor cores would idle on 15 of 16 rows. SCALED: fp8 weights, one float32 scale
for each 128 x 128 block.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import DecodeBlocks, arch_of, ceil_div, decode_blocks, next_power_of_2

SCALE_GROUP = tl.constexpr(128)


@triton.jit
def _products(
    w_ptr, ws_ptr, row, is_here, x, depth, size_k,
    AP: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Weight rows `row` [AP, COLS] times `x` [AP, DEPTH], not yet summed; SCALED sums within scale groups."""
    k = depth + tl.arange(0, DEPTH)[None, None, :]
    where = w_ptr + row.to(tl.int64)[:, :, None] * size_k + k
    w = tl.load(where, mask=is_here[:, :, None] & (k < size_k), other=0.0)
    product = w.to(tl.float32) * x[:, None, :]
    if SCALED:
        GROUPS: tl.constexpr = DEPTH // SCALE_GROUP
        sums = tl.sum(tl.reshape(product, [AP, COLS, GROUPS, SCALE_GROUP]), 3)
        group = depth // SCALE_GROUP + tl.arange(0, GROUPS)[None, None, :]
        num_groups = tl.cdiv(size_k, SCALE_GROUP)
        scale_where = ws_ptr + (row // SCALE_GROUP)[:, :, None] * num_groups + group
        return sums * tl.load(scale_where, mask=is_here[:, :, None] & (group < num_groups), other=0.0)
    else:  # noqa: RET505 - the compiler looks at both branches otherwise
        return product


@triton.jit(do_not_specialize=["per_token"])
def decode_up_kernel(
    x_ptr, ids_ptr, w_ptr, ws_ptr, h_ptr, per_token, num_experts, size_k, size_i,
    COLS: tl.constexpr, DEPTH: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    expert = tl.load(ids_ptr + pair)
    if (expert < 0) | (expert >= num_experts):
        return
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    is_here = col < size_i
    row = expert * 2 * size_i + col
    WIDTH: tl.constexpr = DEPTH // SCALE_GROUP if SCALED else DEPTH
    gate = tl.zeros([1, COLS, WIDTH], tl.float32)
    up = tl.zeros([1, COLS, WIDTH], tl.float32)
    for depth in range(0, size_k, DEPTH):
        k = depth + tl.arange(0, DEPTH)[None, :]
        x = tl.load(x_ptr + (pair // per_token) * size_k + k, mask=k < size_k, other=0.0).to(tl.float32)
        gate += _products(w_ptr, ws_ptr, row, is_here, x, depth, size_k, 1, COLS, DEPTH, SCALED)
        up += _products(w_ptr, ws_ptr, row + size_i, is_here, x, depth, size_k, 1, COLS, DEPTH, SCALED)
    total = tl.sum(gate, 2)
    tl.store(h_ptr + pair * size_i + col, total / (1.0 + tl.exp(-total)) * tl.sum(up, 2), mask=is_here)


@triton.jit(do_not_specialize=["per_token"])
def decode_down_kernel(
    h_ptr, weights_ptr, ids_ptr, w_ptr, ws_ptr, out_ptr, per_token, num_experts, size_k, size_n,
    AP: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    a = tl.arange(0, AP)
    pair = token * per_token + a
    expert = tl.load(ids_ptr + pair, mask=a < per_token, other=-1)
    is_kept = (expert >= 0) & (expert < num_experts)
    weight = tl.load(weights_ptr + pair, mask=is_kept, other=0.0)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    row = expert[:, None] * size_n + col[None, :]
    is_here = is_kept[:, None] & (col < size_n)[None, :]
    WIDTH: tl.constexpr = DEPTH // SCALE_GROUP if SCALED else DEPTH
    acc = tl.zeros([AP, COLS, WIDTH], tl.float32)
    for depth in range(0, size_k, DEPTH):
        k = depth + tl.arange(0, DEPTH)[None, :]
        h = tl.load(h_ptr + pair[:, None] * size_k + k, mask=is_kept[:, None] & (k < size_k), other=0.0)
        acc += _products(w_ptr, ws_ptr, row, is_here, h, depth, size_k, AP, COLS, DEPTH, SCALED)
    out = tl.sum(tl.sum(acc, 2) * weight[:, None], 0)
    tl.store(out_ptr + token * size_n + col, out.to(out_ptr.dtype.element_ty), mask=col < size_n)


def launch_decode_up(
    x: torch.Tensor, ids: torch.Tensor, w13: torch.Tensor, w13_scale: torch.Tensor | None, h: torch.Tensor,
    blocks: DecodeBlocks | None = None,
) -> None:  # fmt: skip
    """Write `h` [N, I] float32, rows of kept pairs only; `blocks` overrides the table."""
    blocks = blocks or decode_blocks(arch_of(x.device))[0]
    num_pairs, width = h.shape
    decode_up_kernel[(num_pairs, ceil_div(width, blocks.cols))](
        x, ids, w13, w13 if w13_scale is None else w13_scale, h, ids.shape[1], w13.shape[0], x.shape[1], width,
        COLS=blocks.cols, DEPTH=blocks.depth, SCALED=w13_scale is not None, num_warps=blocks.num_warps,
    )  # fmt: skip


def launch_decode_down(
    h: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, w2: torch.Tensor, w2_scale: torch.Tensor | None,
    out: torch.Tensor, blocks: DecodeBlocks | None = None,
) -> None:  # fmt: skip
    """Write `out` [T, H]; `blocks` overrides the table."""
    blocks = blocks or decode_blocks(arch_of(h.device))[1]
    num_tokens, hidden = out.shape
    decode_down_kernel[(num_tokens, ceil_div(hidden, blocks.cols))](
        h, weights, ids, w2, w2 if w2_scale is None else w2_scale, out, ids.shape[1], w2.shape[0], w2.shape[2], hidden,
        AP=next_power_of_2(ids.shape[1]), COLS=blocks.cols, DEPTH=blocks.depth, SCALED=w2_scale is not None,
        num_warps=blocks.num_warps,
    )  # fmt: skip
