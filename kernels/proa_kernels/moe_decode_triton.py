"""Experts of a handful of pairs in two launches: weights stream once past vector units, no alignment, no atomics.

Legend as in moe_decode.py; AP is A rounded up to a power of two. The first kernel gives one pair and COLS expert
columns to each program, the second one token and COLS hidden columns, so that the weighted sum stays inside. A product
is rows of weights times one vector: tensor cores would idle on 15 of 16 rows. SCALED: fp8 weights, one float32 scale
for each 128 x 128 block.

Depth is held as [GROUPS, WIDTH] with WIDTH = 128 where weights are scaled. A thread sums the products of one 16-byte
load by itself, and that sum is scaled. The weights of the next step are asked for before those of this step are used.
PDL: the second launch starts while the first one ends and has its first weights under way when the first one's results
arrive (Hopper only).
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import SCALE_GROUP, Arch, DecodeBlocks, arch_of, ceil_div, next_power_of_2
from proa_kernels.tables import decode_blocks, key_of
from proa_kernels.tables_file import layer_on


@triton.jit
def _load_weights(w_ptr, k, is_here, size_k):
    """Weights at depth `k` [1, G, W] of the rows that `w_ptr` [C, G or 1, 1] points to."""
    return tl.load(w_ptr + k, mask=is_here & (k < size_k), other=0.0)


@triton.jit
def _sums(w, x, C: tl.constexpr, G: tl.constexpr, W: tl.constexpr, PACK: tl.constexpr):
    """[C, G, W / PACK]: products of `w` [C, G, W] and `x`, PACK neighbours in each sum."""
    return tl.sum(tl.reshape(w.to(tl.float32) * x, [C, G, W // PACK, PACK]), 3)


@triton.jit(do_not_specialize=["per_token"])
def decode_up_kernel(
    x_ptr, ids_ptr, w_ptr, ws_ptr, h_ptr, per_token, num_experts, size_k, size_i,
    COLS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, PACK: tl.constexpr, SCALED: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    expert = tl.load(ids_ptr + pair)
    if (expert < 0) | (expert >= num_experts):
        return
    first_col = tl.program_id(1) * COLS
    col = first_col + tl.arange(0, COLS)
    is_here = (col < size_i)[:, None, None]
    first_row = expert * 2 * size_i + first_col
    gate_ptr = w_ptr + first_row.to(tl.int64) * size_k + (tl.arange(0, COLS) * size_k)[:, None, None]
    up_ptr = w_ptr + (first_row + size_i).to(tl.int64) * size_k + (tl.arange(0, COLS) * size_k)[:, None, None]
    within = tl.arange(0, GROUPS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    # One address for each column: every thread loads what it multiplies, and nothing passes through shared memory.
    x_where = x_ptr + (pair // per_token) * size_k + tl.zeros([COLS, 1, 1], tl.int32)
    gate = tl.zeros([COLS, GROUPS, WIDTH // PACK], tl.float32)
    up = tl.zeros([COLS, GROUPS, WIDTH // PACK], tl.float32)
    num_groups = size_k // WIDTH
    gate_scale_ptr = ws_ptr + first_row // WIDTH * num_groups
    up_scale_ptr = gate_scale_ptr + size_i // WIDTH * num_groups
    group = tl.arange(0, GROUPS)
    next_gate = _load_weights(gate_ptr, within[None, :, :], is_here, size_k)
    next_up = _load_weights(up_ptr, within[None, :, :], is_here, size_k)
    next_x = tl.load(x_where + within[None, :, :], mask=(within < size_k)[None, :, :], other=0.0)
    if SCALED:
        next_gate_scale = tl.load(gate_scale_ptr + group, mask=group < num_groups, other=0.0)
        next_up_scale = tl.load(up_scale_ptr + group, mask=group < num_groups, other=0.0)
    for depth in range(GROUPS * WIDTH, size_k + GROUPS * WIDTH, GROUPS * WIDTH):
        w_gate, w_up, x = next_gate, next_up, next_x.to(tl.float32)
        k = depth + within
        next_gate = _load_weights(gate_ptr, k[None, :, :], is_here, size_k)
        next_up = _load_weights(up_ptr, k[None, :, :], is_here, size_k)
        next_x = tl.load(x_where + k[None, :, :], mask=(k < size_k)[None, :, :], other=0.0)
        gate_sums = _sums(w_gate, x, COLS, GROUPS, WIDTH, PACK)
        up_sums = _sums(w_up, x, COLS, GROUPS, WIDTH, PACK)
        if SCALED:
            gate_sums *= next_gate_scale[None, :, None]
            up_sums *= next_up_scale[None, :, None]
            group += GROUPS
            next_gate_scale = tl.load(gate_scale_ptr + group, mask=group < num_groups, other=0.0)
            next_up_scale = tl.load(up_scale_ptr + group, mask=group < num_groups, other=0.0)
        gate += gate_sums
        up += up_sums
    total = tl.sum(tl.sum(gate, 2), 1)
    h = total / (1.0 + tl.exp(-total)) * tl.sum(tl.sum(up, 2), 1)
    tl.store(h_ptr + pair * size_i + col, h, mask=col < size_i)


@triton.jit(do_not_specialize=["per_token"])
def decode_down_kernel(
    h_ptr, weights_ptr, ids_ptr, w_ptr, ws_ptr, out_ptr, per_token, num_experts, size_k, size_n,
    AP: tl.constexpr, COLS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, PACK: tl.constexpr,
    SCALED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    # One axis holds pairs and groups of depth alike.
    a = tl.arange(0, AP * GROUPS) // GROUPS
    within = (tl.arange(0, AP * GROUPS) % GROUPS * WIDTH)[:, None] + tl.arange(0, WIDTH)[None, :]
    pair = token * per_token + a
    expert = tl.load(ids_ptr + pair, mask=a < per_token, other=-1)
    is_kept = (expert >= 0) & (expert < num_experts)
    first_col = tl.program_id(1) * COLS
    col = first_col + tl.arange(0, COLS)
    is_here = (col < size_n)[:, None, None] & is_kept[None, :, None]
    row = tl.where(is_kept, expert, 0)[None, :] * size_n + col[:, None]
    row_ptr = w_ptr + (row.to(tl.int64) * size_k)[:, :, None]
    acc = tl.zeros([COLS, AP * GROUPS, WIDTH // PACK], tl.float32)
    num_groups = size_k // WIDTH
    group = tl.arange(0, AP * GROUPS) % GROUPS
    scale_ptr = ws_ptr + (expert * size_n + first_col) // WIDTH * num_groups
    next_w = _load_weights(row_ptr, within[None, :, :], is_here, size_k)
    weight = tl.load(weights_ptr + pair, mask=is_kept, other=0.0)
    next_scale = weight
    if SCALED:
        next_scale = weight * tl.load(scale_ptr + group, mask=is_kept & (group < num_groups), other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
    for depth in range(0, size_k, GROUPS * WIDTH):
        k = depth + within
        h = tl.load(h_ptr + pair[:, None] * size_k + k, mask=is_kept[:, None] & (k < size_k), other=0.0)
        w, scale = next_w, next_scale
        next_w = _load_weights(row_ptr, (k + GROUPS * WIDTH)[None, :, :], is_here, size_k)
        if SCALED:
            group += GROUPS
            next_scale = weight * tl.load(scale_ptr + group, mask=is_kept & (group < num_groups), other=0.0)
        acc += _sums(w, h[None, :, :], COLS, AP * GROUPS, WIDTH, PACK) * scale[None, :, None]
    out = tl.sum(tl.sum(acc, 2), 1)
    tl.store(out_ptr + token * size_n + col, out.to(out_ptr.dtype.element_ty), mask=col < size_n)


def launch_decode_up(
    x: torch.Tensor, ids: torch.Tensor, w13: torch.Tensor, w13_scale: torch.Tensor | None, h: torch.Tensor,
    blocks: DecodeBlocks | None = None,
) -> None:  # fmt: skip
    """Write `h` [N, I] float32, rows of kept pairs only; `blocks` overrides the table."""
    arch, is_scaled = arch_of(x.device), w13_scale is not None
    num_pairs, width = h.shape
    blocks = blocks or _blocks(x, w13_scale, (w13.shape[0], w13.shape[2], width), num_pairs)[0]
    decode_up_kernel[(num_pairs, ceil_div(width, blocks.cols))](
        x, ids, w13, w13_scale if is_scaled else w13, h, ids.shape[1], w13.shape[0], x.shape[1], width,
        **decode_constants(blocks, arch, is_scaled=is_scaled), **_launch_options(blocks, arch),
    )  # fmt: skip


def launch_decode_down(
    h: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, w2: torch.Tensor, w2_scale: torch.Tensor | None,
    out: torch.Tensor, blocks: DecodeBlocks | None = None,
) -> None:  # fmt: skip
    """Write `out` [T, H]; `blocks` overrides the table."""
    arch, is_scaled = arch_of(h.device), w2_scale is not None
    num_tokens, hidden = out.shape
    blocks = blocks or _blocks(h, w2_scale, (w2.shape[0], hidden, w2.shape[2]), ids.numel())[1]
    decode_down_kernel[(num_tokens, ceil_div(hidden, blocks.cols))](
        h, weights, ids, w2, w2_scale if is_scaled else w2, out, ids.shape[1], w2.shape[0], w2.shape[2], hidden,
        AP=next_power_of_2(ids.shape[1]), **decode_constants(blocks, arch, is_scaled=is_scaled),
        **_launch_options(blocks, arch),
    )  # fmt: skip


def _blocks(
    x: torch.Tensor, w_scale: torch.Tensor | None, sizes: tuple[int, int, int], num_pairs: int
) -> tuple[DecodeBlocks, DecodeBlocks]:
    """As measured on this GPU for `sizes` (experts, hidden, width), else the table of arch.py."""
    layer = layer_on(x.device, key_of(x.dtype, w_scale, *sizes))
    return decode_blocks(layer, arch_of(x.device), num_pairs, is_scaled=w_scale is not None)


def decode_constants(blocks: DecodeBlocks, arch: Arch, *, is_scaled: bool) -> dict[str, int | bool]:
    """Compile-time constants of both kernels."""
    width = SCALE_GROUP if is_scaled else blocks.depth
    pack = 16 if is_scaled else 8  # weights of 16 bytes
    sizes = {"COLS": blocks.cols, "GROUPS": blocks.depth // width, "WIDTH": width, "PACK": pack}
    return sizes | {"SCALED": is_scaled, "PDL": has_dependent_launch(arch)}


def has_dependent_launch(arch: Arch) -> bool:
    """Programmatic dependent launch: the second kernel may start before the first one has ended."""
    return arch.name == "sm90"


def _launch_options(blocks: DecodeBlocks, arch: Arch) -> dict[str, int | bool]:
    return {"num_warps": blocks.num_warps} | ({"launch_pdl": True} if has_dependent_launch(arch) else {})
