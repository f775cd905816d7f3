"""Checks of the microscaling kernels with the blocks that would run. Legends as in mxfp.py and mxfp_gemm.py.

On a CPU the interpreter runs the decoding arm in float32: it has no `tl.dot_scaled`, and computes bfloat16 wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton.language as tl

from proa_kernels.arch import ROW_TILES, GemmBlocks
from proa_kernels.doctor_checks import Check
from proa_kernels.moe_align import Alignment, moe_align
from proa_kernels.mxfp import ELEMENTS, MxFormat, dequantize_mx, empty_mx, quantize_mx_ref
from proa_kernels.mxfp_gemm import PAIRS, gemm1_mx_ref, gemm2_mx_ref
from proa_kernels.mxfp_gemm_launch import launch_gemm1_mx, launch_gemm2_mx
from proa_kernels.mxfp_triton import launch_quant_mx
from proa_kernels.testing import Guarded, relative_error, tolerance

Operand = tuple[torch.Tensor, torch.Tensor | None]
CPU_BLOCKS = GemmBlocks(rows=16, cols=64, depth=64, group=2, num_warps=1, num_stages=1)
HALF_STEP = {"mxfp8": 2.0**-4, "mxfp4": 2.0**-2}
"""Largest error of an element as a share of its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    num_tokens: int
    per_token: int
    num_experts: int
    hidden: int
    width: int


SMALL = {
    "cpu": Sizes(num_tokens=9, per_token=2, num_experts=3, hidden=96, width=96),
    "cuda": Sizes(num_tokens=150, per_token=3, num_experts=9, hidden=672, width=352),
}


def checks(device: torch.device) -> Iterator[tuple[str, Check]]:
    """Name and check of both conversions and of all products; a check returns "" or what is wrong."""
    for mx in ELEMENTS:
        yield f"mx_quantize {mx}", partial(check_quantize, device, mx)
    for x_mx, w_mx in PAIRS:
        for rows in ROW_TILES if device.type == "cuda" else ROW_TILES[:1]:
            name = f"{x_mx or 'bf16'} x {w_mx} row tile {rows}"
            yield f"mx_gemm1 {name}", partial(check_first, device, x_mx, w_mx, rows)
            yield f"mx_gemm2 {name}", partial(check_second, device, x_mx, w_mx, rows)


def check_quantize(device: torch.device, mx: MxFormat) -> str:
    """The reference's bytes, for groups from 2^-120 to 2^100 with zeros, one of them with a NaN."""
    x = torch.randn(7, 96, device=device) * torch.linspace(-120, 100, 7, device=device)[:, None].exp2()
    x[:, 5], x[3, 40] = 0.0, float("nan")
    values, scales = _poisoned(x, mx)
    launch_quant_mx(x, values, scales, mx)
    values_ref, scales_ref = quantize_mx_ref(x, mx)
    if not torch.equal(scales, scales_ref):
        return "scale bytes differ"
    return "" if torch.equal(values.view(torch.uint8), values_ref.view(torch.uint8)) else "elements differ"


def check_first(device: torch.device, x_mx: MxFormat | None, w_mx: MxFormat, rows: int) -> str:
    """Against float32; and the rows as the second product takes them, within their rounding."""
    sizes = SMALL[device.type]
    alignment, (x, x_scale) = _routed(device, rows), _operand(device, sizes.num_tokens, sizes.hidden, x_mx)
    w13, w13_scale = _weights(device, 2 * sizes.width, sizes.hidden, w_mx)
    routed = (alignment.rows_R, alignment.expert_B, alignment.totals_2)
    reference = gemm1_mx_ref(x, w13, *routed, rows, sizes.per_token, x_scale, w13_scale)
    out = Guarded.empty(tuple(reference.shape), _dtype(device), device)
    others: dict[str, Any] = {"x_scale": x_scale, "w_scale": w13_scale, **_overrides(device)}
    launch_gemm1_mx(x, w13, *routed, out.tensor, w13_scale, rows, sizes.per_token, **others)
    fault = _verdict(out, reference, alignment, sizes.hidden)
    if fault or x_mx is None:
        return fault
    values, scales = _poisoned(reference, x_mx)
    launch_gemm1_mx(x, w13, *routed, values, scales, rows, sizes.per_token, **others)
    total = int(alignment.totals_2[0])
    error = relative_error(dequantize_mx(values, scales)[:total], reference[:total])
    return "" if error < HALF_STEP[x_mx] else f"{x_mx} rows off by {error:.1e}"


def check_second(device: torch.device, x_mx: MxFormat | None, w_mx: MxFormat, rows: int) -> str:
    """Against float32."""
    sizes, alignment = SMALL[device.type], _routed(device, rows)
    h, h_scale = _operand(device, alignment.rows_R.numel(), sizes.width, x_mx)
    w2, w2_scale = _weights(device, sizes.hidden, sizes.width, w_mx)
    routed = (alignment.expert_B, alignment.totals_2)
    reference = gemm2_mx_ref(h, w2, *routed, rows, h_scale, w2_scale)
    out = Guarded.empty(tuple(reference.shape), _dtype(device), device)
    launch_gemm2_mx(h, w2, *routed, out.tensor, rows, h_scale, w2_scale, **_overrides(device))
    return _verdict(out, reference, alignment, sizes.width)


def _poisoned(like: torch.Tensor, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Elements and scale bytes for numbers shaped as `like`; scale byte 255 is NaN."""
    values, scales = empty_mx(like, like.shape[0], like.shape[1], mx)
    values.view(torch.uint8).fill_(255)
    return values, scales.fill_(255)


def _routed(device: torch.device, rows: int) -> Alignment:
    sizes = SMALL[device.type]
    shape = (sizes.num_tokens, sizes.per_token)
    ids = torch.randint(-1, sizes.num_experts + 1, shape, device=device, dtype=torch.int32)
    return moe_align(ids, sizes.num_experts, rows)


def _operand(device: torch.device, num_rows: int, depth: int, mx: MxFormat | None) -> Operand:
    x = torch.randn(num_rows, depth, device=device)
    return (x.bfloat16(), None) if mx is None else quantize_mx_ref(x, mx)


def _weights(device: torch.device, rows: int, depth: int, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    num_experts = SMALL[device.type].num_experts
    values, scales = quantize_mx_ref(torch.randn(num_experts * rows, depth, device=device) / depth**0.5, mx)
    return values.view(num_experts, rows, -1), scales.view(num_experts, rows, -1)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _overrides(device: torch.device) -> dict[str, Any]:
    return {} if device.type == "cuda" else {"blocks": CPU_BLOCKS, "is_scaled": False, "dot": tl.float32}


def _verdict(out: Guarded, reference: torch.Tensor, alignment: Alignment, depth: int) -> str:
    total = int(alignment.totals_2[0])
    if not out.is_intact() or not bool(out.tensor[total:].isnan().all()):
        return "wrote outside its rows"
    error = relative_error(out.tensor[:total], reference[:total])
    return "" if error < tolerance(out.tensor.dtype, depth=depth) else f"off by {error:.1e}"
