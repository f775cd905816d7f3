"""Routed experts as two grouped products and a weighted sum, all on rows grouped by `moe_align`.

Legend: T tokens, H hidden, E experts, A experts per token, N = T * A pairs, I expert width, R row capacity,
B = R / M blocks of M rows. Weights `w13_EFH` (F = 2I: gate rows, then up rows) and `w2_EHI`, as in checkpoints.

    h_RI    = silu(x w13_gate^T) * (x w13_up^T)      moe_gemm1, gathers tokens by pair
    rows_RH = h w2^T                                 moe_gemm2
    out_TH  = sum over a of weights[t, a] rows[row of pair (t, a)]     moe_combine, dropped pairs add nothing

Sums are float32. fp8: e4m3 with float32 scales of blocks, `x_scale` [T, H / 128] and weight scales
[E, rows / 128, depth / 128], or of rows, `x_scale` [T] and weight scales [E, rows].
"""

from __future__ import annotations

import torch

from proa_kernels.arch import SCALE_GROUP, arm_for
from proa_kernels.moe_align import Alignment

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz)
HALVES = (torch.bfloat16, torch.float16)


def moe_gemm1(
    x_TH: torch.Tensor,
    w13_EFH: torch.Tensor,
    alignment: Alignment,
    block_rows: int,
    per_token: int,
    *,
    x_scale: torch.Tensor | None = None,
    w_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """`h_RI` in x's dtype (bfloat16 for fp8); rows of padding hold numbers that mean nothing. `per_token` is A."""
    check_product(x_TH, w13_EFH, x_scale, w_scale)
    if w13_EFH.shape[1] % 2:
        raise ValueError(f"w13 must hold gate and up rows, not an odd number of {w13_EFH.shape[1]} rows")
    if w_scale is not None and w_scale.dim() == 3 and w13_EFH.shape[1] % (2 * SCALE_GROUP):
        raise ValueError(f"scaled w13 needs an expert width divisible by {SCALE_GROUP}, not {w13_EFH.shape[1] // 2}")
    out: torch.Tensor = torch.ops.proa.moe_gemm1(
        x_TH, w13_EFH, alignment.rows_R, alignment.expert_B, alignment.totals_2, block_rows, per_token, x_scale, w_scale
    )
    return out


def moe_gemm2(
    h_RI: torch.Tensor,
    w2_EHI: torch.Tensor,
    alignment: Alignment,
    block_rows: int,
    *,
    h_scale: torch.Tensor | None = None,
    w_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """`rows_RH` in h's dtype (bfloat16 for fp8), in the order of the alignment's rows."""
    check_product(h_RI, w2_EHI, h_scale, w_scale)
    out: torch.Tensor = torch.ops.proa.moe_gemm2(
        h_RI, w2_EHI, alignment.expert_B, alignment.totals_2, block_rows, h_scale, w_scale
    )
    return out


def moe_combine(rows_RH: torch.Tensor, weights_TA: torch.Tensor, alignment: Alignment) -> torch.Tensor:
    """[T, H] in the dtype of the rows."""
    is_table = weights_TA.dim() == 2 and weights_TA.numel() == alignment.inverse_N.numel()
    if not is_table or weights_TA.dtype != torch.float32 or not weights_TA.is_contiguous():
        raise ValueError(f"weights must be contiguous float32 [T, A], not {weights_TA.dtype} {tuple(weights_TA.shape)}")
    if rows_RH.dim() != 2 or not rows_RH.is_contiguous():
        raise ValueError(f"rows must be contiguous [R, H], not {tuple(rows_RH.shape)} strided {rows_RH.stride()}")
    out: torch.Tensor = torch.ops.proa.moe_combine(rows_RH, weights_TA, alignment.inverse_N)
    return out


def check_product(x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor | None, w_scale: torch.Tensor | None) -> None:
    """ValueError unless `x` [T, K] and `w` [E, F, K] can be multiplied with these scales."""
    if x.dim() != 2 or w.dim() != 3 or x.shape[1] != w.shape[2]:
        raise ValueError(f"activations {tuple(x.shape)} do not fit weights {tuple(w.shape)}: the last sizes must agree")
    if not x.is_contiguous() or not w.is_contiguous():
        raise ValueError("activations and weights must be contiguous; call .contiguous() once at load time")
    is_paired = x.dtype == w.dtype or (x.dtype in HALVES and w.dtype in FLOAT8)
    if not is_paired or x.dtype not in HALVES + FLOAT8:
        raise ValueError(f"no product of {x.dtype} activations with {w.dtype} weights")
    if (x.dtype in FLOAT8) != (x_scale is not None) or (w.dtype in FLOAT8) != (w_scale is not None):
        raise ValueError("fp8 tensors need their scales, other tensors must have none")
    if w_scale is None:
        return
    is_rowwise = w_scale.dim() == 2
    if not is_rowwise and (w.shape[1] % SCALE_GROUP or w.shape[2] % SCALE_GROUP):
        raise ValueError(f"weights scaled in blocks need sizes divisible by {SCALE_GROUP}, not {tuple(w.shape)}")
    num_experts, rows, depth = w.shape
    fitting = (num_experts, rows) if is_rowwise else (num_experts, rows // SCALE_GROUP, depth // SCALE_GROUP)
    _check_scale("weights", w_scale, fitting)
    if x_scale is not None:
        _check_scale("activations", x_scale, x.shape[:1] if is_rowwise else (x.shape[0], depth // SCALE_GROUP))


def _check_scale(name: str, scale: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(scale.shape) != tuple(shape) or scale.dtype != torch.float32 or not scale.is_contiguous():
        found = f"{scale.dtype} {tuple(scale.shape)} strided {scale.stride()}"
        raise ValueError(f"scales of {name} must be {tuple(shape)}, contiguous float32; not {found}")


def dequantized(values: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """float32 of `values`; the scale's last dim covers groups of 128, and so do its rows for weights (3 dims).

    A scale with one dim less than `values` has one number for each row.
    """
    if scale is None:
        return values.float()
    if scale.dim() < values.dim():
        return values.float() * scale[..., None]
    wide = scale.repeat_interleave(SCALE_GROUP, -1)
    return values.float() * (wide.repeat_interleave(SCALE_GROUP, -2) if values.dim() == 3 else wide)


def out_dtype(activations: torch.Tensor) -> torch.dtype:
    return torch.bfloat16 if activations.dtype in FLOAT8 else activations.dtype


def gemm1_ref(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, per_token: int, x_scale: torch.Tensor | None, w_scale: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Block by block in float32; rows past the total are zero."""
    x32, num_pairs = dequantized(x, x_scale), x.shape[0] * per_token
    out = x.new_zeros((rows.numel(), w13.shape[1] // 2), dtype=out_dtype(x))
    for block in range(int(totals[0]) // block_rows):
        here = slice(block * block_rows, (block + 1) * block_rows)
        e = int(expert[block])
        w = dequantized(w13[e : e + 1], None if w_scale is None else w_scale[e : e + 1])[0]
        gate, up = (x32[rows[here].long().clamp(max=num_pairs - 1) // per_token] @ w.T).chunk(2, -1)
        out[here] = (torch.nn.functional.silu(gate) * up).to(out.dtype)
    return out


def gemm2_ref(
    h: torch.Tensor, w2: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, h_scale: torch.Tensor | None, w_scale: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Block by block in float32; rows past the total are zero."""
    h32 = dequantized(h, h_scale)
    out = h.new_zeros((h.shape[0], w2.shape[1]), dtype=out_dtype(h))
    for block in range(int(totals[0]) // block_rows):
        here = slice(block * block_rows, (block + 1) * block_rows)
        e = int(expert[block])
        w = dequantized(w2[e : e + 1], None if w_scale is None else w_scale[e : e + 1])[0]
        out[here] = (h32[here] @ w.T).to(out.dtype)
    return out


def combine_ref(rows: torch.Tensor, weights: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    is_kept = inverse >= 0
    picked = rows[inverse.clamp(min=0).long()].float().masked_fill(~is_kept[:, None], 0.0)
    return (picked.view(*weights.shape, rows.shape[1]) * weights[..., None]).sum(1).to(rows.dtype)


@torch.library.custom_op(
    "proa::moe_gemm1",
    mutates_args=(),
    schema="(Tensor x, Tensor w13, Tensor rows, Tensor expert, Tensor totals, int block_rows, int per_token,"
    " Tensor? x_scale, Tensor? w_scale) -> Tensor",
)
def _gemm1_op(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, per_token: int, x_scale: torch.Tensor | None, w_scale: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    if arm_for("moe_gemm", x.device) == "reference":
        return gemm1_ref(x, w13, rows, expert, totals, block_rows, per_token, x_scale, w_scale)
    from proa_kernels.moe_gemm_launch import launch_gemm1  # the reference needs no Triton

    out = _empty_gemm1(x, w13, rows)
    launch_gemm1(x, w13, rows, expert, totals, out, block_rows, per_token, x_scale, w_scale)
    return out


@_gemm1_op.register_fake
def _gemm1_fake(x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, *_: object) -> torch.Tensor:
    return _empty_gemm1(x, w13, rows)


def _empty_gemm1(x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return x.new_empty((rows.shape[0], w13.shape[1] // 2), dtype=out_dtype(x))


@torch.library.custom_op(
    "proa::moe_gemm2",
    mutates_args=(),
    schema="(Tensor h, Tensor w2, Tensor expert, Tensor totals, int block_rows, Tensor? h_scale, Tensor? w_scale)"
    " -> Tensor",
)
def _gemm2_op(
    h: torch.Tensor, w2: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, h_scale: torch.Tensor | None, w_scale: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    if arm_for("moe_gemm", h.device) == "reference":
        return gemm2_ref(h, w2, expert, totals, block_rows, h_scale, w_scale)
    from proa_kernels.moe_gemm_launch import launch_gemm2

    out = _empty_gemm2(h, w2)
    launch_gemm2(h, w2, expert, totals, out, block_rows, h_scale, w_scale)
    return out


@_gemm2_op.register_fake
def _gemm2_fake(h: torch.Tensor, w2: torch.Tensor, *_: object) -> torch.Tensor:
    return _empty_gemm2(h, w2)


def _empty_gemm2(h: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    return h.new_empty((h.shape[0], w2.shape[1]), dtype=out_dtype(h))


@torch.library.custom_op(
    "proa::moe_combine", mutates_args=(), schema="(Tensor rows, Tensor weights, Tensor inverse) -> Tensor"
)
def _combine_op(rows: torch.Tensor, weights: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    if arm_for("moe_combine", rows.device) == "reference":
        return combine_ref(rows, weights, inverse)
    from proa_kernels.moe_gemm_launch import launch_combine

    out = rows.new_empty((weights.shape[0], rows.shape[1]))
    launch_combine(rows, weights, inverse, out)
    return out


@_combine_op.register_fake
def _combine_fake(rows: torch.Tensor, weights: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return rows.new_empty((weights.shape[0], rows.shape[1]))
