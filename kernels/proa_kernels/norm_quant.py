"""Norm and fp8 quantisation of the rows that a product with fp8 weights takes, in one launch.

Legend: T tokens, M hidden size; groups of `group` columns (0: the whole row), the last one may be shorter.

    sum_TM       = x + residual, rounded to x's dtype                           (norm.py)
    normed_TM    = sum / sqrt(mean(sum^2) + eps) * weight, rounded to x's dtype
    values, scales = `quantize` of the normed rows                              (quant.py)

The normed rows are rounded to x's dtype on the way, as the two ops in sequence do, but are never written: with a
residual 7 bytes of each 16-bit column move instead of 11.
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for
from proa_kernels.dispatch import custom_op
from proa_kernels.norm import check_rows, rms_norm_ref
from proa_kernels.quant import check_format, empty_quantized, quantize_ref


def rms_norm_quant(
    x_TM: torch.Tensor, weight_M: torch.Tensor, eps: float, dtype: torch.dtype, group: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """fp8 values [T, M] and float32 scales [T, groups] of `rms_norm(x)`. ValueError for what either op refuses."""
    check_rows(x_TM, weight_M)
    check_format(dtype, group)
    values, scales, _ = _norm_quant_op(x_TM, None, weight_M, eps, dtype, group)
    return values, scales


def add_rms_norm_quant(
    x_TM: torch.Tensor,
    residual_TM: torch.Tensor,
    weight_M: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
    group: int = 128,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values and scales as of `rms_norm_quant`, and the sum [T, M] that was normed. Raises ValueError as it does."""
    check_rows(x_TM, weight_M, residual_TM)
    check_format(dtype, group)
    return _norm_quant_op(x_TM, residual_TM, weight_M, eps, dtype, group)


def norm_quant_ref(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float, dtype: torch.dtype, group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two ops in sequence; the sum is empty without a residual."""
    total = x if residual is None else x + residual
    values, scales = quantize_ref(rms_norm_ref(total, weight, eps), dtype, group, False)
    return values, scales, x.new_empty(0) if residual is None else total


@custom_op(
    "proa::norm_quant",
    schema="(Tensor x, Tensor? residual, Tensor weight, float eps, ScalarType dtype, int group)"
    " -> (Tensor, Tensor, Tensor)",
)
def _norm_quant_op(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float, dtype: torch.dtype, group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if arm_for("rms_norm", x.device) == "reference":
        return norm_quant_ref(x, residual, weight, eps, dtype, group)
    from proa_kernels.norm_quant_triton import launch_norm_quant  # the reference needs no Triton

    values, scales, total = _norm_quant_fake(x, residual, weight, eps, dtype, group)
    launch_norm_quant(x, residual, weight, eps, values, scales, total, group)
    return values, scales, total


@_norm_quant_op.register_fake
def _norm_quant_fake(
    x: torch.Tensor, residual: torch.Tensor | None, _: torch.Tensor, __: float, dtype: torch.dtype, group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    total = x.new_empty(0) if residual is None else torch.empty_like(residual)
    return *empty_quantized(x, dtype, group, False), total
