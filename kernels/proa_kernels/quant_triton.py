"""silu * up and fp8 quantisation in Triton: program (token, COLS columns). Legend as in quant.py."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import ceil_div, next_power_of_2

COLS = 2048
ELEMENTS_PER_WARP = 512


@triton.jit
def _columns(x_ptr, token, col, size, HAS_SILU: tl.constexpr):
    """float32 columns of the token's row, 0 past the end of it."""
    here = col < size
    if HAS_SILU:
        gate = tl.load(x_ptr + token * 2 * size + col, mask=here, other=0.0).to(tl.float32)
        up = tl.load(x_ptr + token * 2 * size + size + col, mask=here, other=0.0).to(tl.float32)
        return gate / (1.0 + tl.exp(-gate)) * up
    else:  # noqa: RET505 - the compiler looks at both branches otherwise
        return tl.load(x_ptr + token * size + col, mask=here, other=0.0).to(tl.float32)


@triton.jit
def silu_mul_kernel(x_ptr, out_ptr, size_i, COLS: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    product = _columns(x_ptr, token, col, size_i, True)
    tl.store(out_ptr + token * size_i + col, product.to(out_ptr.dtype.element_ty), mask=col < size_i)


@triton.jit
def quant_kernel(
    x_ptr, values_ptr, scales_ptr, size_m, num_groups, largest,
    COLS: tl.constexpr, GROUP: tl.constexpr, HAS_SILU: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    per_program: tl.constexpr = COLS // GROUP
    group = tl.program_id(1) * per_program + tl.arange(0, per_program)
    col = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = _columns(x_ptr, token, col, size_m, HAS_SILU)
    scale = tl.max(tl.abs(x), 1) / largest
    scale = tl.where(scale > 0.0, scale, 1.0)
    values = (x / scale[:, None]).to(values_ptr.dtype.element_ty)
    tl.store(values_ptr + token * size_m + col, values, mask=col < size_m)
    tl.store(scales_ptr + token * num_groups + group, scale, mask=group < num_groups)


def launch_silu_mul(x_TM: torch.Tensor, out_TI: torch.Tensor) -> None:
    """Fill `out_TI`."""
    num_tokens, size = out_TI.shape
    if out_TI.numel() == 0:
        return
    cols = min(COLS, next_power_of_2(size))
    silu_mul_kernel[(num_tokens, ceil_div(size, cols))](x_TM, out_TI, size, COLS=cols, num_warps=_num_warps(cols))


def launch_quant(
    x_TM: torch.Tensor, values_TM: torch.Tensor, scales: torch.Tensor, group: int, *, has_silu: bool
) -> None:
    """Fill values and scales."""
    num_tokens, size = values_TM.shape
    if values_TM.numel() == 0:
        return
    group = group or next_power_of_2(size)
    cols = max(group, min(COLS, next_power_of_2(size)))
    quant_kernel[(num_tokens, ceil_div(size, cols))](
        x_TM, values_TM, scales, size, scales.shape[1], torch.finfo(values_TM.dtype).max,
        COLS=cols, GROUP=group, HAS_SILU=has_silu, num_warps=_num_warps(cols),
    )  # fmt: skip


def _num_warps(cols: int) -> int:
    return max(1, min(8, cols // ELEMENTS_PER_WARP))
