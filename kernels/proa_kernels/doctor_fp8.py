"""Checks of the products with fp8 and scales of blocks on both sides, as the ops launch them. Legend as in moe_gemm.py.

On sm90 row tiles of 128 have a kernel of their own (`moe_gemm_sm90.py`), which callers who name blocks do not get.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from proa_kernels.arch import ROW_TILES, SCALE_GROUP, GemmBlocks, arch_of
from proa_kernels.doctor_checks import CPU_GEMM, SMALL, Check, half_of
from proa_kernels.moe_align import Alignment
from proa_kernels.moe_gemm import dequantized
from proa_kernels.moe_gemm_launch import launch_gemm1, launch_gemm2
from proa_kernels.testing import Guarded, relative_error, tolerance
from proa_kernels.timing import float8_of
from proa_kernels.tune_problem import Problem


def checks(device: torch.device) -> Iterator[tuple[str, Check]]:
    """The largest row tile on a GPU, two for most experts and the second ragged; the smallest in the interpreter."""
    is_gpu = device.type == "cuda"
    rows, tokens, blocks = (ROW_TILES[-1], 600, None) if is_gpu else (ROW_TILES[0], 9, CPU_GEMM)
    yield f"gemm1 fp8 row tile {rows}", partial(check_first, device, tokens, rows, blocks)
    yield f"gemm2 fp8 row tile {rows}", partial(check_second, device, tokens, rows, blocks)


def check_first(device: torch.device, tokens: int, rows: int, blocks: GemmBlocks | None) -> str:
    """Product 1 of fp8 values with block scales on both sides, in row tiles of `rows`, against float32."""
    problem = Problem.random(SMALL[device.type], "a16w8", tokens, device)
    alignment = problem.align(0, rows)
    x, x_scale = _quantized(problem.x)
    out = Guarded.empty((alignment.rows_R.numel(), problem.shape.width), half_of(device), device)
    launch_gemm1(
        x, problem.w13, alignment.rows_R, alignment.expert_B, alignment.totals_2, out.tensor, rows,
        problem.shape.per_token, x_scale, problem.w13_scale, blocks,
    )  # fmt: skip
    expected = replace(problem, x=dequantized(x, x_scale)).expected_hidden(0)
    return _verdict(out, alignment, expected, problem.shape.hidden)


def check_second(device: torch.device, tokens: int, rows: int, blocks: GemmBlocks | None) -> str:
    """Product 2 of fp8 values with block scales on both sides, in row tiles of `rows`, against float32."""
    problem = Problem.random(SMALL[device.type], "a16w8", tokens, device)
    alignment = problem.align(0, rows)
    h, h_scale = _quantized(torch.randn(alignment.rows_R.numel(), problem.shape.width, device=device))
    out = Guarded.empty((h.shape[0], problem.shape.hidden), half_of(device), device)
    launch_gemm2(
        h, problem.w2, alignment.expert_B, alignment.totals_2, out.tensor, rows, h_scale, problem.w2_scale, blocks
    )
    expected = problem.expected_pairs(dequantized(h, h_scale)[alignment.inverse_N.long()], 0)
    return _verdict(out, alignment, expected, problem.shape.width)


def _quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Any fp8 values with any scales are exact inputs of a product."""
    scale = torch.rand(x.shape[0], x.shape[1] // SCALE_GROUP, device=x.device) + 0.5
    return x.to(float8_of(arch_of(x.device))), scale


def _verdict(out: Guarded, alignment: Alignment, expected: torch.Tensor, depth: int) -> str:
    if not out.is_intact() or not bool(out.tensor[int(alignment.totals_2[0]) :].isnan().all()):
        return "wrote outside its rows"
    error = relative_error(out.tensor[alignment.inverse_N.long()], expected)
    return "" if error < tolerance(out.tensor.dtype, depth=depth) else f"off by {error:.1e}"
