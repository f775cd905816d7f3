"""Head norm, rotation and cache write in Triton. Legend as in rope.py; HEADS heads of one token per program.

A row's pairs are read as one block and split in registers, so that loads stay wide. Queries, keys and values share a
program shape: a row's head number says which of them it is, and two masked stores send it to its place.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import arch_of, ceil_div, next_power_of_2

MAX_HEADS = 8


@triton.jit
def _rotated(x, cos, sin, ROWS: tl.constexpr, DP: tl.constexpr):
    """float32 rows [ROWS, DP], pair by pair; `cos` and `sin` are [1, DP / 2]."""
    even, odd = tl.split(tl.reshape(x, [ROWS, DP // 2, 2]))
    return tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), [ROWS, DP])


@triton.jit
def _angles(rotation_ptr, token, size_p, DP: tl.constexpr):
    """Cosine and sine [1, DP / 2]; pairs outside of the table stay as they are."""
    pair = tl.arange(0, DP // 2)[None, :]
    has = pair < size_p
    where = rotation_ptr + (token * size_p + pair) * 2
    return tl.load(where, mask=has, other=1.0), tl.load(where + 1, mask=has, other=0.0)


@triton.jit
def rope_write_kernel(
    qkv_ptr, norm_ptr, rotation_ptr, pages_ptr, positions_ptr, cache_ptr, q_ptr, size_block, eps, size_p,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PAGE: tl.constexpr,
    HEADS: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, DP)[None, :]
    here = (head < H + 2 * K) & (d < D)
    x = tl.load(qkv_ptr + (token * (H + 2 * K) + head) * D + d, mask=here, other=0.0).to(tl.float32)
    is_value = head >= H + K
    if HAS_NORM:
        weight = tl.load(norm_ptr + head * D + d, mask=here & (head < H + K), other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]
        x = tl.where(is_value, x, x * scale * weight)
    cos, sin = _angles(rotation_ptr, token, size_p, DP)
    x = tl.where(is_value, x, _rotated(x, cos, sin, HEADS, DP)).to(q_ptr.dtype.element_ty)
    tl.store(q_ptr + (token * H + head) * D + d, x, mask=here & (head < H))
    page = tl.load(pages_ptr + token).to(tl.int64)
    offset = tl.load(positions_ptr + token) % PAGE
    # keys, then values: plane and head number the rows of a page in one sequence
    place = cache_ptr + page * size_block + ((head - H) * PAGE + offset) * D + d
    tl.store(place, x, mask=here & (head >= H))


@triton.jit
def latent_rope_write_kernel(
    q_ptr, latent_ptr, norm_ptr, rotation_ptr, pages_ptr, positions_ptr, cache_ptr,
    size_block, size_q, size_latent, eps, size_p,
    H: tl.constexpr, D: tl.constexpr, R: tl.constexpr, ROT: tl.constexpr, RP: tl.constexpr, OP: tl.constexpr,
    PAGE: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    o = tl.arange(0, OP)[None, :]
    cos, sin = _angles(rotation_ptr, token, size_p, OP)
    if part > 0:
        head = (part - 1) * HEADS + tl.arange(0, HEADS)[:, None]
        here = (head < H) & (o < ROT)
        q_where = q_ptr + token * size_q + head * D + (D - ROT) + o
        q = tl.load(q_where, mask=here, other=0.0).to(tl.float32)
        tl.store(q_where, _rotated(q, cos, sin, HEADS, OP).to(q_ptr.dtype.element_ty), mask=here)
    else:
        page = tl.load(pages_ptr + token).to(tl.int64)
        row_ptr = cache_ptr + page * size_block + (tl.load(positions_ptr + token) % PAGE) * (R + ROT)
        r = tl.arange(0, RP)
        latent = tl.load(latent_ptr + token * size_latent + r, mask=r < R, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(latent * latent, 0) / R + eps)
        weight = tl.load(norm_ptr + r, mask=r < R, other=0.0).to(tl.float32)
        tl.store(row_ptr + r, (latent * scale * weight).to(cache_ptr.dtype.element_ty), mask=r < R)
        key = tl.load(latent_ptr + token * size_latent + R + o, mask=o < ROT, other=0.0).to(tl.float32)
        tl.store(row_ptr + R + o, _rotated(key, cos, sin, 1, OP).to(cache_ptr.dtype.element_ty), mask=o < ROT)


def launch_rope_write(
    qkv_TND: torch.Tensor, norm_D: torch.Tensor | None, eps: float, rotation_TP2: torch.Tensor, pages_T: torch.Tensor,
    positions_T: torch.Tensor, cache_X2KSD: torch.Tensor, q_THD: torch.Tensor,
) -> None:  # fmt: skip
    """Fill `q_THD` and the tokens' rows of the cache."""
    num_tokens, num_heads, dim = q_THD.shape
    if num_tokens == 0:
        return
    num_kv_heads, page_tokens = cache_X2KSD.shape[2:4]
    num_rows = num_heads + 2 * num_kv_heads
    heads = heads_per_program(num_tokens, num_rows, arch_of(qkv_TND.device).num_cus)
    rope_write_kernel[(num_tokens, ceil_div(num_rows, heads))](
        qkv_TND, qkv_TND if norm_D is None else norm_D, rotation_TP2, pages_T, positions_T, cache_X2KSD, q_THD,
        cache_X2KSD.stride(0), eps, rotation_TP2.shape[1], H=num_heads, K=num_kv_heads, D=dim, DP=next_power_of_2(dim),
        PAGE=page_tokens, HEADS=heads, HAS_NORM=norm_D is not None, num_warps=max(1, min(4, heads // 2)),
    )  # fmt: skip


def launch_latent_rope_write(
    q_THD: torch.Tensor, latent_TC: torch.Tensor, norm_R: torch.Tensor, eps: float, rotation_TP2: torch.Tensor,
    pages_T: torch.Tensor, positions_T: torch.Tensor, cache_XSC: torch.Tensor,
) -> None:  # fmt: skip
    """Rotate `q_THD` in place and fill the tokens' rows of the cache."""
    num_tokens, num_heads, dim = q_THD.shape
    if num_tokens == 0:
        return
    rank, num_rotated = norm_R.shape[0], 2 * rotation_TP2.shape[1]
    heads = heads_per_program(num_tokens, num_heads, arch_of(q_THD.device).num_cus)
    latent_rope_write_kernel[(num_tokens, 1 + ceil_div(num_heads, heads))](
        q_THD, latent_TC, norm_R, rotation_TP2, pages_T, positions_T, cache_XSC, cache_XSC.stride(0),
        q_THD.stride(0), latent_TC.stride(0), eps, rotation_TP2.shape[1], H=num_heads, D=dim, R=rank, ROT=num_rotated,
        RP=next_power_of_2(rank), OP=next_power_of_2(num_rotated), PAGE=cache_XSC.shape[1], HEADS=heads, num_warps=1,
    )  # fmt: skip


def heads_per_program(num_tokens: int, num_heads: int, num_cus: int) -> int:
    """Few tokens spread over the GPU head by head; many share the cost of a program among up to MAX_HEADS heads."""
    wanted = ceil_div(num_tokens * num_heads, 4 * num_cus)
    return max(1, min(MAX_HEADS, next_power_of_2(wanted)))
