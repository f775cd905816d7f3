"""Root-mean-square norm (arXiv:1910.07467), with the residual sum that precedes it in a decoder.

Legend: T tokens, M hidden size.

    sum_TM  = x + residual, rounded to x's dtype
    out_TM  = sum / sqrt(mean(sum^2) + eps) * weight, in float32, rounded once
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for
from proa_kernels.dispatch import custom_op

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def rms_norm(x_TM: torch.Tensor, weight_M: torch.Tensor, eps: float) -> torch.Tensor:
    """Normed rows [T, M], contiguous; rows of `x_TM` may be apart (a slice of columns), their elements may not.

    Raises ValueError for shapes and dtypes that do not fit.
    """
    check_rows(x_TM, weight_M)
    return _rms_norm_op(x_TM, weight_M, eps)


def add_rms_norm(
    x_TM: torch.Tensor, residual_TM: torch.Tensor, weight_M: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normed rows and the sum that was normed, each [T, M], in one launch. Raises ValueError as `rms_norm` does."""
    check_rows(x_TM, weight_M, residual_TM)
    return _add_rms_norm_op(x_TM, residual_TM, weight_M, eps)


def check_rows(x_TM: torch.Tensor, weight_M: torch.Tensor, residual_TM: torch.Tensor | None = None) -> None:
    """ValueError for shapes, dtypes and strides that no norm here takes."""
    if x_TM.dim() != 2 or x_TM.dtype not in FLOATS or (x_TM.shape[1] > 1 and x_TM.stride(1) != 1):
        raise ValueError(f"x must be float rows [T, M], not {x_TM.dtype} {tuple(x_TM.shape)} strided {x_TM.stride()}")
    if weight_M.shape != x_TM.shape[1:] or weight_M.dtype != x_TM.dtype or not weight_M.is_contiguous():
        raise ValueError(f"weight must be {x_TM.dtype} [{x_TM.shape[1]}], not {weight_M.dtype} {tuple(weight_M.shape)}")
    if residual_TM is not None and (
        residual_TM.shape != x_TM.shape or residual_TM.dtype != x_TM.dtype or not residual_TM.is_contiguous()
    ):
        raise ValueError(
            f"residual must be contiguous {x_TM.dtype} {tuple(x_TM.shape)},"
            f" not {residual_TM.dtype} {tuple(residual_TM.shape)}"
        )


def rms_norm_ref(x_TM: torch.Tensor, weight_M: torch.Tensor, eps: float) -> torch.Tensor:
    x32 = x_TM.float()
    scale_T1 = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale_T1 * weight_M.float()).to(x_TM.dtype)


@custom_op("proa::rms_norm", schema="(Tensor x, Tensor weight, float eps) -> Tensor")
def _rms_norm_op(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if arm_for("rms_norm", x.device) == "reference":
        return rms_norm_ref(x, weight, eps)
    from proa_kernels.norm_triton import launch_rms_norm  # the reference needs no Triton

    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    launch_rms_norm(x, None, weight, eps, out, None)
    return out


@_rms_norm_op.register_fake
def _rms_norm_fake(x: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@custom_op(
    "proa::add_rms_norm",
    schema="(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
)
def _add_rms_norm_op(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if arm_for("rms_norm", x.device) == "reference":
        total = x + residual
        return rms_norm_ref(total, weight, eps), total
    from proa_kernels.norm_triton import launch_rms_norm

    out, total = torch.empty_like(residual), torch.empty_like(residual)
    launch_rms_norm(x, residual, weight, eps, out, total)
    return out, total


@_add_rms_norm_op.register_fake
def _add_rms_norm_fake(_: torch.Tensor, residual: torch.Tensor, *__: object) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(residual), torch.empty_like(residual)
