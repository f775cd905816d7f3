"""Norm and fp8 quantisation in one launch: one program per row, all of its columns at once. Legend as in norm_quant.py.

Each step is that of `rms_norm_kernel`, then that of `quant_kernel`, in the same order on the same numbers.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import next_power_of_2
from proa_kernels.norm_triton import ELEMENTS_PER_WARP, normed_row


@triton.jit
def norm_quant_kernel(
    x_ptr, residual_ptr, weight_ptr, values_ptr, scales_ptr, sum_ptr, size_m, size_stride, num_groups, eps, largest,
    COLS: tl.constexpr, GROUP: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    col = tl.arange(0, COLS)
    here = col < size_m
    normed = normed_row(
        x_ptr, residual_ptr, weight_ptr, sum_ptr, row, col, here, size_m, size_stride, eps, HAS_RESIDUAL
    )
    normed = normed.to(x_ptr.dtype.element_ty).to(tl.float32)  # what the rows in memory would hold
    grouped = tl.reshape(normed, (COLS // GROUP, GROUP))
    group = tl.arange(0, COLS // GROUP)
    group_scale = tl.max(tl.abs(grouped), 1) / largest
    group_scale = tl.where(group_scale > 0.0, group_scale, 1.0)
    values = (grouped / group_scale[:, None]).to(values_ptr.dtype.element_ty)
    tl.store(values_ptr + row * size_m + col, tl.reshape(values, (COLS,)), mask=here)
    tl.store(scales_ptr + row * num_groups + group, group_scale, mask=group < num_groups)


def launch_norm_quant(
    x_TM: torch.Tensor,
    residual_TM: torch.Tensor | None,
    weight_M: torch.Tensor,
    eps: float,
    values_TM: torch.Tensor,
    scales: torch.Tensor,
    sum_TM: torch.Tensor,
    group: int,
) -> None:
    """Fill values and scales, and `sum_TM` where there is a residual."""
    num_tokens, size = x_TM.shape
    if x_TM.numel() == 0:
        return
    cols = next_power_of_2(size)
    norm_quant_kernel[(num_tokens,)](
        x_TM, x_TM if residual_TM is None else residual_TM, weight_M, values_TM, scales, sum_TM,
        size, x_TM.stride(0), scales.shape[1], eps, torch.finfo(values_TM.dtype).max,
        COLS=cols, GROUP=min(group or cols, cols), HAS_RESIDUAL=residual_TM is not None,
        num_warps=max(1, min(8, cols // ELEMENTS_PER_WARP)),
    )  # fmt: skip
