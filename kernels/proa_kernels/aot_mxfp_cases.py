"""Microscaling kernels as launched on Instinct GPUs: part of `aot_cases.cases_for`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton.language as tl

from proa_kernels.aot import Case, Need, make_case
from proa_kernels.arch import ROW_TILES, Arch, GemmBlocks, has_scaled_products, mx_blocks
from proa_kernels.mxfp import ELEMENTS, MxFormat
from proa_kernels.mxfp_gemm import PAIRS
from proa_kernels.mxfp_gemm_triton import gemm1_mx_kernel, gemm2_mx_kernel
from proa_kernels.mxfp_triton import COLS, quant_mx_kernel

BYTES = dict.fromkeys(("w_ptr", "xs_ptr", "hs_ptr", "ws_ptr", "outs_ptr", "values_ptr", "scales_ptr"), "*u8")


def mx_cases(arch: Arch) -> Iterator[Case]:
    for mx, elements in ELEMENTS.items():
        types = BYTES | {"x_ptr": "*bf16"}
        constants = {"COLS": COLS, "FORMAT": elements.name}
        yield make_case(f"quant {mx}", quant_mx_kernel, types, constants, 4, needs=("wide_loads",))
    for activations, weights in PAIRS:
        for rows in ROW_TILES:
            yield from _products(activations, weights, mx_blocks(arch, rows, is_a16=activations is None), arch)


def _products(
    activations: MxFormat | None, weights: MxFormat, blocks: tuple[GemmBlocks, GemmBlocks], arch: Arch
) -> Iterator[Case]:
    x_type = "*bf16" if activations is None else "*u8"
    x_name = "bf16" if activations is None else ELEMENTS[activations].name
    needs: tuple[Need, ...] = ("mfma", "wide_loads")
    if activations is not None and has_scaled_products(arch):
        needs = ("mfma", "scaled_mfma", "wide_loads")
    for number, kernel, tile in ((1, gemm1_mx_kernel, blocks[0]), (2, gemm2_mx_kernel, blocks[1])):
        name = f"gemm{number} {activations or 'bf16'} x {weights} {tile.rows}x{tile.cols}x{tile.depth}"
        types = BYTES | {"x_ptr": x_type, "h_ptr": x_type, "out_ptr": x_type if number == 1 else "*bf16"}
        constants = _constants(tile, arch) | {"X": x_name, "W": ELEMENTS[weights].name}
        constants |= {"OUT": x_name} if number == 1 else {}
        yield make_case(name, kernel, types, constants, tile.num_warps, tile.num_stages, needs)


def _constants(tile: GemmBlocks, arch: Arch) -> dict[str, Any]:
    return {
        "ROWS": tile.rows, "COLS": tile.cols, "DEPTH": tile.depth, "GROUP": tile.group, "NUM_XCDS": arch.num_xcds,
        "SCALED": has_scaled_products(arch), "DOT": tl.bfloat16, "EVEN": True,
    }  # fmt: skip
