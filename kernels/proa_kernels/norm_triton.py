"""Norm in Triton: one program per row, all of its columns at once. Legend as in norm.py."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import next_power_of_2

ELEMENTS_PER_WARP = 512  # 16 in each of 32 lanes: two 16-byte loads


@triton.jit
def normed_row(
    x_ptr, residual_ptr, weight_ptr, sum_ptr, row, col, here, size_m, size_stride, eps, HAS_RESIDUAL: tl.constexpr
):
    """One row in float32, normed and weighted; with a residual the sum is stored too."""
    x = tl.load(x_ptr + row * size_stride + col, mask=here, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + row * size_m + col, mask=here, other=0.0).to(tl.float32)
        total = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * size_m + col, total, mask=here)
        x = total.to(tl.float32)  # the norm sees what later layers will see
    scale = tl.rsqrt(tl.sum(x * x, 0) / size_m + eps)
    weight = tl.load(weight_ptr + col, mask=here, other=0.0).to(tl.float32)
    return x * scale * weight


@triton.jit
def rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, size_m, size_stride, eps,
    COLS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, COLS)
    here = col < size_m
    normed = normed_row(
        x_ptr, residual_ptr, weight_ptr, sum_ptr, row, col, here, size_m, size_stride, eps, HAS_RESIDUAL
    )
    tl.store(out_ptr + row * size_m + col, normed.to(out_ptr.dtype.element_ty), mask=here)


def launch_rms_norm(
    x_TM: torch.Tensor,
    residual_TM: torch.Tensor | None,
    weight_M: torch.Tensor,
    eps: float,
    out_TM: torch.Tensor,
    sum_TM: torch.Tensor | None,
) -> None:
    """Fill `out_TM`, and `sum_TM` where there is a residual."""
    num_tokens, size = x_TM.shape
    if num_tokens == 0:
        return
    cols = next_power_of_2(size)
    rms_norm_kernel[(num_tokens,)](
        x_TM, x_TM if residual_TM is None else residual_TM, weight_M, out_TM, out_TM if sum_TM is None else sum_TM,
        size, x_TM.stride(0), eps, COLS=cols, HAS_RESIDUAL=residual_TM is not None,
        num_warps=max(1, min(8, cols // ELEMENTS_PER_WARP)),
    )  # fmt: skip
