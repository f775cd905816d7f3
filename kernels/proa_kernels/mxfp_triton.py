"""Microscaling in Triton: conversions in registers, and one kernel that quantises rows. Legend as in mxfp.py.

Conversions work on the bits of float32, so that all targets and the interpreter give the references' bytes: element
casts exist in hardware on gfx950 only. FORMAT is "e2m1" or "e4m3". A block of e2m1 elements holds two in a byte.
"""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import ceil_div, next_power_of_2
from proa_kernels.mxfp import ELEMENTS, GROUP, MxFormat

COLS = 2048
ELEMENTS_PER_WARP = 512
MX_GROUP = tl.constexpr(GROUP)
ROUNDER = tl.constexpr(1.5 * 2**23)
"""A float32 this large has steps of 1: adding it rounds to whole numbers, ties to even."""
ROUNDER_BITS = tl.constexpr(0x4B400000)


@triton.jit
def _power_of_two(exponent):
    """2^(exponent - 127) for exponents of normal numbers."""
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def mx_quantized(x, ROWS: tl.constexpr, COLS: tl.constexpr, FORMAT: tl.constexpr):
    """uint8 elements and scale bytes [ROWS, COLS / 32] of float32 `x` [ROWS, COLS].

    A number v of exponent e has steps of 2^(e - mantissa bits); its code counts the steps of all smaller exponents and
    then its own ones, so rounding up into the next exponent needs no care.
    """
    MANTISSA: tl.constexpr = 1 if FORMAT == "e2m1" else 3
    EMAX: tl.constexpr = 2 if FORMAT == "e2m1" else 8
    LARGEST: tl.constexpr = 6.0 if FORMAT == "e2m1" else 448.0
    SMALLEST: tl.constexpr = 127 if FORMAT == "e2m1" else 121
    SIGN: tl.constexpr = 8 if FORMAT == "e2m1" else 128
    groups = tl.reshape(x, [ROWS, COLS // MX_GROUP, MX_GROUP])
    # Bits of magnitudes sort as the magnitudes do, with infinity and NaN last; a maximum of floats may drop NaN.
    exponent = tl.max(groups.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 2) >> 23
    is_nan = exponent == 255
    scale = tl.where(is_nan, 255, tl.maximum(exponent - EMAX, 0))
    factor = _power_of_two(254 - tl.minimum(scale, 253))
    v = tl.where(is_nan[:, :, None], 0.0, groups * factor[:, :, None])
    size = tl.minimum(tl.abs(v), LARGEST)
    exponent = tl.maximum(size.to(tl.int32, bitcast=True) >> 23, SMALLEST)
    steps = (size * _power_of_two(254 + MANTISSA - exponent) + ROUNDER).to(tl.int32, bitcast=True)
    codes = ((exponent - SMALLEST) << MANTISSA) + steps - ROUNDER_BITS
    codes = (codes + tl.where(v.to(tl.int32, bitcast=True) < 0, SIGN, 0)).to(tl.uint8)
    if FORMAT == "e2m1":
        low, high = tl.split(tl.reshape(codes, [ROWS, COLS // 2, 2]))
        return low | (high << 4), scale.to(tl.uint8)
    else:  # noqa: RET505 - the compiler looks at both branches otherwise
        return tl.reshape(codes, [ROWS, COLS]), scale.to(tl.uint8)


@triton.jit
def mx_numbers(elements, scale, ROWS: tl.constexpr, COLS: tl.constexpr, FORMAT: tl.constexpr, DTYPE: tl.constexpr):
    """Numbers [ROWS, COLS] in DTYPE (float32 or bfloat16, exact in both down to 2^-126) of a block and its scales.

    An element's bits under the exponent of float32 are its number times a constant power of two, subnormals included.
    NOTE: 0.5 of e2m1 passes through a subnormal float32: hardware that flushes those would read 0.
    """
    MANTISSA: tl.constexpr = 1 if FORMAT == "e2m1" else 3
    SIGN: tl.constexpr = 8 if FORMAT == "e2m1" else 128
    UNBIAS: tl.constexpr = 2.0**126 if FORMAT == "e2m1" else 2.0**120
    codes = tl.interleave(elements & 15, elements >> 4) if FORMAT == "e2m1" else elements
    codes = codes.to(tl.int32)
    bits = ((codes & (SIGN - 1)) << (23 - MANTISSA)) | tl.where(codes >= SIGN, -(2**31), 0)
    numbers = bits.to(tl.float32, bitcast=True) * UNBIAS
    if FORMAT == "e4m3":
        numbers = tl.where((codes & 127) == 127, float("nan"), numbers)
    wide = scale.to(tl.int32)
    wide = tl.where(wide == 0, 1 << 22, tl.where(wide == 255, 0x7FC00000, wide << 23)).to(tl.float32, bitcast=True)
    groups = tl.reshape(numbers, [ROWS, COLS // MX_GROUP, MX_GROUP]) * wide[:, :, None]
    numbers = tl.reshape(groups, [ROWS, COLS])
    if tl.bfloat16 == DTYPE:
        # Elements have at most 4 significant bits: cutting the float32 is exact and needs no rounding instructions.
        return (numbers.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:  # noqa: RET505 - the compiler looks at both branches otherwise
        return numbers


@triton.jit
def quant_mx_kernel(x_ptr, values_ptr, scales_ptr, size_m, COLS: tl.constexpr, FORMAT: tl.constexpr):
    PER_BYTE: tl.constexpr = 2 if FORMAT == "e2m1" else 1
    token, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLS
    col = start + tl.arange(0, COLS)
    x = tl.load(x_ptr + token * size_m + col, mask=col < size_m, other=0.0).to(tl.float32)
    values, scale = mx_quantized(x[None, :], 1, COLS, FORMAT)
    where = start // PER_BYTE + tl.arange(0, COLS // PER_BYTE)
    num_bytes = size_m // PER_BYTE
    tl.store(values_ptr + token * num_bytes + where[None, :], values, mask=where[None, :] < num_bytes)
    group = start // MX_GROUP + tl.arange(0, COLS // MX_GROUP)
    num_groups = size_m // MX_GROUP
    tl.store(scales_ptr + token * num_groups + group[None, :], scale, mask=group[None, :] < num_groups)


def launch_quant_mx(x_TM: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, mx: MxFormat) -> None:
    """Fill elements and scales."""
    num_tokens, size = x_TM.shape
    if x_TM.numel() == 0:
        return
    cols = min(COLS, next_power_of_2(size))
    quant_mx_kernel[(num_tokens, ceil_div(size, cols))](
        x_TM, values.view(torch.uint8), scales, size,
        COLS=cols, FORMAT=ELEMENTS[mx].name, num_warps=max(1, min(8, cols // ELEMENTS_PER_WARP)),
    )  # fmt: skip
