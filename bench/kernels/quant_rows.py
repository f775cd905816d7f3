"""Activation and fp8 quantisation: checked against the reference and timed against the copy bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from proa_kernels.quant import quantize_ref, silu_mul_ref
from proa_kernels.quant_triton import launch_quant, launch_silu_mul
from proa_kernels.testing import relative_error, tolerance

from bench.kernels.decode_problem import BF16
from bench.kernels.measure import Ceilings, time_launches
from bench.kernels.rows import Row

E4M3 = torch.float8_e4m3fn


def _outputs(x: torch.Tensor, group: int, has_silu: bool) -> tuple[torch.Tensor, torch.Tensor]:
    size = x.shape[1] // 2 if has_silu else x.shape[1]
    values = torch.empty(x.shape[0], size, device="cuda").fill_(7.0).to(E4M3)
    return values, torch.full((x.shape[0], -(-size // group) if group else 1), float("nan"), device="cuda")


def check() -> str:
    """The first shape that differs from the reference, or ""; of the fp8 values one in 1000 may differ."""
    for tokens, size, group, has_silu in ((1, 2048, 128, False), (300, 1408, 128, True), (70, 7168, 0, False)):
        x = torch.randn(tokens, 2 * size if has_silu else size, device="cuda", dtype=BF16)
        values, scales = _outputs(x, group, has_silu)
        launch_quant(x, values, scales, group, has_silu=has_silu)
        expected, scales_ref = quantize_ref(x, E4M3, group, has_silu)
        share = float((values.float() != expected.float()).float().mean())
        if not relative_error(scales, scales_ref) < 1e-6 or share > 1e-3:
            return f"{tokens}x{size} group {group}: {share:.1e} of the values differ"
        if has_silu:
            out = torch.full_like(x[:, :size], float("nan")).contiguous()
            launch_silu_mul(x, out)
            if not (error := relative_error(out, silu_mul_ref(x))) < tolerance(BF16, num_roundings=2):
                return f"silu_mul off by {error:.1e}"
    return ""


def quant_rows(ceilings: Ceilings) -> Iterator[Row]:
    """silu_mul and fp8 quantisation by groups of 128, by row, and with silu_mul before it; floors are bytes moved."""
    for tokens in (1, 256, 16384):
        sets = [torch.randn(tokens, 4096, device="cuda", dtype=BF16) for _ in range(4)]
        out = torch.empty(tokens, 2048, device="cuda", dtype=BF16)
        moved = sets[0].nbytes + out.nbytes
        timing = time_launches([partial(launch_silu_mul, x, out) for x in sets])
        yield Row(name=f"silu_mul {tokens}x2048", timing=timing, floor_us=moved / ceilings.copy_bytes * 1e6)
        for name, group, has_silu in (("128", 128, False), ("row", 0, False), ("128 silu", 128, True)):
            values, scales = _outputs(sets[0], group, has_silu)
            moved = sets[0].nbytes + values.nbytes + scales.nbytes
            launches = [partial(launch_quant, x, values, scales, group, has_silu=has_silu) for x in sets]
            floor_us = moved / ceilings.copy_bytes * 1e6
            yield Row(name=f"quant {name} {tokens}x4096", timing=time_launches(launches), floor_us=floor_us)
