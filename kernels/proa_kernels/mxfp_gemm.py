"""Routed experts with microscaling weights on rows grouped by `moe_align`: moe_gemm.py's products, mxfp.py's formats.

Legend as in moe_gemm.py: T tokens, H hidden, E experts, A experts per token, I expert width, F = 2I (gate rows, then up
rows), R row capacity, K the depth of a product (H, then I), a multiple of 32.

Weights are mxfp8 or mxfp4 with a scale byte for each 32 of a row. Activations are bfloat16, or microscaling too, with
their scale bytes. The first product can leave its rows in microscaling, as the second one wants them. Sums are float32.
The weighted sum over a token's experts is `moe_combine`.
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for
from proa_kernels.moe_align import Alignment
from proa_kernels.moe_gemm import gemm1_ref, gemm2_ref
from proa_kernels.mxfp import (
    ELEMENTS,
    GROUP,
    MxFormat,
    check_mx,
    dequantize_mx,
    empty_mx,
    format_of,
    quantize_mx_ref,
)

PAIRS: tuple[tuple[MxFormat | None, MxFormat], ...] = (
    (None, "mxfp4"), ("mxfp8", "mxfp4"), ("mxfp4", "mxfp4"), (None, "mxfp8"), ("mxfp8", "mxfp8"),
)  # fmt: skip
"""Formats of activations (None: bfloat16) and weights that are compiled ahead of time and checked."""


def moe_gemm1_mx(
    x: torch.Tensor,
    w13: torch.Tensor,
    w_scale: torch.Tensor,
    alignment: Alignment,
    block_rows: int,
    per_token: int,
    *,
    x_scale: torch.Tensor | None = None,
    out: MxFormat | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """silu(gate) * up of the aligned rows: bfloat16 [R, I], or elements of `out` and their scale bytes [R, I / 32].

    Rows of padding hold numbers that mean nothing. ValueError for tensors that do not fit together.
    """
    check_mx_product(x, w13, x_scale, w_scale)
    rows, width = w13.shape[1], w13.shape[1] // 2
    if rows % 2:
        raise ValueError(f"w13 must hold gate and up rows, not an odd number of {rows} rows")
    if out is not None and width % GROUP:
        raise ValueError(f"rows can be left in {out} only if the expert width is a multiple of {GROUP}, not {width}")
    values, scales = torch.ops.proa.moe_gemm1_mx(
        x, w13, alignment.rows_R, alignment.expert_B, alignment.totals_2, block_rows, per_token, x_scale, w_scale, out
    )
    return values, None if out is None else scales


def moe_gemm2_mx(
    h: torch.Tensor,
    w2: torch.Tensor,
    w_scale: torch.Tensor,
    alignment: Alignment,
    block_rows: int,
    *,
    h_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """bfloat16 `rows_RH`, in the order of the alignment's rows. ValueError for tensors that do not fit together."""
    check_mx_product(h, w2, h_scale, w_scale)
    if h.shape[0] != alignment.rows_R.shape[0]:
        raise ValueError(f"h has {h.shape[0]} rows, the alignment {alignment.rows_R.shape[0]}: give those of product 1")
    out: torch.Tensor = torch.ops.proa.moe_gemm2_mx(
        h, w2, alignment.expert_B, alignment.totals_2, block_rows, h_scale, w_scale
    )
    return out


def check_mx_product(x: torch.Tensor, w: torch.Tensor, x_scale: torch.Tensor | None, w_scale: torch.Tensor) -> None:
    """ValueError unless `x` [T, K] and microscaling `w` [E, F, K] can be multiplied with these scales."""
    check_mx("weights", w, w_scale)
    if (x_scale is None) != (x.dtype == torch.bfloat16):
        raise ValueError(
            f"activations must be bfloat16 without scales, or mxfp8 or mxfp4 with them, not {x.dtype}"
            f" {'without' if x_scale is None else 'with'} scales; cast with .bfloat16() or use quantize_mx"
        )
    if x_scale is not None:
        check_mx("activations", x, x_scale)
    if x.dim() != 2 or w.dim() != 3 or depth_of(x) != depth_of(w):
        raise ValueError(f"activations {tuple(x.shape)} ({x.dtype}) do not fit weights {tuple(w.shape)} ({w.dtype})")
    if not x.is_contiguous():
        raise ValueError("activations must be contiguous")


def depth_of(values: torch.Tensor) -> int:
    """Numbers in a row."""
    mx = format_of(values)
    return values.shape[-1] * (1 if mx is None else ELEMENTS[mx].per_byte)


def _numbers(values: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return values.float() if scale is None else dequantize_mx(values, scale)


def gemm1_mx_ref(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, per_token: int, x_scale: torch.Tensor | None, w_scale: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """float32 [R, I] of the numbers that the elements stand for; rows past the total are zero."""
    x32, w32 = _numbers(x, x_scale), dequantize_mx(w13, w_scale)
    return gemm1_ref(x32, w32, rows, expert, totals, block_rows, per_token, None, None)


def gemm2_mx_ref(
    h: torch.Tensor, w2: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, h_scale: torch.Tensor | None, w_scale: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """float32 [R, H], else as `gemm1_mx_ref`."""
    h32, w32 = _numbers(h, h_scale), dequantize_mx(w2, w_scale)
    return gemm2_ref(h32, w32, expert, totals, block_rows, None, None)


@torch.library.custom_op(
    "proa::moe_gemm1_mx",
    mutates_args=(),
    schema="(Tensor x, Tensor w13, Tensor rows, Tensor expert, Tensor totals, int block_rows, int per_token,"
    " Tensor? x_scale, Tensor w_scale, str? out) -> (Tensor, Tensor)",
)
def _gemm1_mx_op(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, per_token: int, x_scale: torch.Tensor | None, w_scale: torch.Tensor, out: MxFormat | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    if arm_for("moe_gemm", x.device) == "reference":
        h32 = gemm1_mx_ref(x, w13, rows, expert, totals, block_rows, per_token, x_scale, w_scale)
        return (h32.bfloat16(), x.new_empty(0, dtype=torch.uint8)) if out is None else quantize_mx_ref(h32, out)
    from proa_kernels.mxfp_gemm_launch import launch_gemm1_mx  # the reference needs no Triton

    values, scales = _empty_gemm1(x, w13, rows, out)
    launch_gemm1_mx(x, w13, rows, expert, totals, values, scales, block_rows, per_token, x_scale, w_scale)
    return values, scales


@_gemm1_mx_op.register_fake
def _gemm1_mx_fake(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, per_token: int, x_scale: torch.Tensor | None, w_scale: torch.Tensor, out: MxFormat | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    return _empty_gemm1(x, w13, rows, out)


def _empty_gemm1(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, out: MxFormat | None
) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows, width = rows.shape[0], w13.shape[1] // 2
    if out is not None:
        return empty_mx(x, num_rows, width, out)
    return x.new_empty((num_rows, width), dtype=torch.bfloat16), x.new_empty(0, dtype=torch.uint8)


@torch.library.custom_op(
    "proa::moe_gemm2_mx",
    mutates_args=(),
    schema="(Tensor h, Tensor w2, Tensor expert, Tensor totals, int block_rows, Tensor? h_scale, Tensor w_scale)"
    " -> Tensor",
)
def _gemm2_mx_op(
    h: torch.Tensor, w2: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    block_rows: int, h_scale: torch.Tensor | None, w_scale: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    if arm_for("moe_gemm", h.device) == "reference":
        return gemm2_mx_ref(h, w2, expert, totals, block_rows, h_scale, w_scale).bfloat16()
    from proa_kernels.mxfp_gemm_launch import launch_gemm2_mx

    out = _empty_gemm2(h, w2)
    launch_gemm2_mx(h, w2, expert, totals, out, block_rows, h_scale, w_scale)
    return out


@_gemm2_mx_op.register_fake
def _gemm2_mx_fake(h: torch.Tensor, w2: torch.Tensor, *_: object) -> torch.Tensor:
    return _empty_gemm2(h, w2)


def _empty_gemm2(h: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    return h.new_empty((h.shape[0], w2.shape[1]), dtype=torch.bfloat16)
