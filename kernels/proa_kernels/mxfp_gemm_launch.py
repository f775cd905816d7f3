"""Launch code of the microscaling products: grid, blocks, and which arm multiplies."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

from proa_kernels.arch import Arch, GemmBlocks, arch_of, ceil_div, has_scaled_products, mx_blocks
from proa_kernels.mxfp import ELEMENTS, format_of
from proa_kernels.mxfp_gemm import depth_of
from proa_kernels.mxfp_gemm_triton import gemm1_mx_kernel, gemm2_mx_kernel


def launch_gemm1_mx(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    out: torch.Tensor, out_scale: torch.Tensor, block_rows: int, per_token: int,
    x_scale: torch.Tensor | None, w_scale: torch.Tensor,
    blocks: GemmBlocks | None = None, is_scaled: bool | None = None, dot: tl.dtype = tl.bfloat16,
) -> None:  # fmt: skip
    """Write `out`, and `out_scale` where `out` is microscaling; `blocks`, `is_scaled` and `dot` override the table."""
    arch = arch_of(x.device)
    blocks = blocks or mx_blocks(arch, block_rows, is_a16=x_scale is None)[0]
    width = w13.shape[1] // 2
    gemm1_mx_kernel[(expert.numel() * ceil_div(width, blocks.cols),)](
        _bytes(x), _bytes(w13), w_scale if x_scale is None else x_scale, w_scale, _bytes(out), out_scale,
        rows, expert, totals, x.shape[0] * per_token, per_token, x.shape[1], w13.shape[2], w_scale.shape[2], width,
        OUT=element_name(out), **_constants(arch, blocks, x, w13, is_scaled, dot),
    )  # fmt: skip


def launch_gemm2_mx(
    h: torch.Tensor, w2: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor, out: torch.Tensor, block_rows: int,
    h_scale: torch.Tensor | None, w_scale: torch.Tensor,
    blocks: GemmBlocks | None = None, is_scaled: bool | None = None, dot: tl.dtype = tl.bfloat16,
) -> None:  # fmt: skip
    """Write `out` [R, H]; else as `launch_gemm1_mx`."""
    arch = arch_of(h.device)
    blocks = blocks or mx_blocks(arch, block_rows, is_a16=h_scale is None)[1]
    width = w2.shape[1]
    gemm2_mx_kernel[(expert.numel() * ceil_div(width, blocks.cols),)](
        _bytes(h), _bytes(w2), w_scale if h_scale is None else h_scale, w_scale, out, expert, totals,
        h.shape[1], w2.shape[2], w_scale.shape[2], width, **_constants(arch, blocks, h, w2, is_scaled, dot),
    )  # fmt: skip


def element_name(values: torch.Tensor) -> str:
    mx = format_of(values)
    return "bf16" if mx is None else ELEMENTS[mx].name


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.uint8) if values.dtype == torch.float8_e4m3fn else values


def _constants(
    arch: Arch, blocks: GemmBlocks, x: torch.Tensor, w: torch.Tensor, is_scaled: bool | None, dot: tl.dtype
) -> dict[str, Any]:
    return {
        "ROWS": blocks.rows,
        "COLS": blocks.cols,
        "DEPTH": blocks.depth,
        "GROUP": blocks.group,
        "NUM_XCDS": arch.num_xcds,
        "X": element_name(x),
        "W": element_name(w),
        "SCALED": has_scaled_products(arch) if is_scaled is None else is_scaled,
        "DOT": dot,
        "EVEN": depth_of(x) % blocks.depth == 0,
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
    }
