"""OCP microscaling: 32 neighbours of a row share one power of two, and each keeps 8 bits (mxfp8) or 4 bits (mxfp4).

Legend: T rows, M columns (a multiple of 32), G = M / 32 groups.

    scale byte s = floor(log2 max|x|) - emax + 127, at least 0 (e8m0: it stands for 2^(s - 127))
    element      = x / 2^(s - 127), to the nearest number of the format, ties to even, never past its largest one

mxfp8 elements are e4m3 (emax 8, up to 448), mxfp4 elements e2m1 (emax 2, up to 6), two in a byte, low nibble first. A
group with a NaN or an infinity becomes NaN as a whole: scale byte 255, elements 0. Other groups never overflow.

Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5 (formats) and 6.3 (conversion).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from proa_kernels.arch import arm_for

MxFormat = Literal["mxfp8", "mxfp4"]
GROUP = 32
NAN_SCALE = 255
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Numbers of the codes 0 to 7; bit 3 is the sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elements:
    """`name` as Triton calls them; `per_byte` elements in one; `emax` the exponent of the largest power of two."""

    name: Literal["e4m3", "e2m1"]
    dtype: torch.dtype
    per_byte: int
    emax: int
    largest: float


ELEMENTS: Mapping[MxFormat, Elements] = {
    "mxfp8": Elements(name="e4m3", dtype=torch.float8_e4m3fn, per_byte=1, emax=8, largest=448.0),
    "mxfp4": Elements(name="e2m1", dtype=torch.uint8, per_byte=2, emax=2, largest=6.0),
}


def format_of(values: torch.Tensor) -> MxFormat | None:
    """The format whose elements have this dtype, None for other dtypes."""
    return next((mx for mx in get_args(MxFormat) if ELEMENTS[mx].dtype == values.dtype), None)


def quantize_mx(x_TM: torch.Tensor, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Elements (e4m3 [T, M], or uint8 [T, M / 2] with two in a byte) and scale bytes uint8 [T, G].

    `x_TM` contiguous 16- or 32-bit floats. ValueError for other dtypes, shapes and formats.
    """
    if mx not in ELEMENTS:
        raise ValueError(f"no microscaling format {mx!r}; known: {', '.join(ELEMENTS)}")
    if x_TM.dim() != 2 or x_TM.dtype not in FLOATS or not x_TM.is_contiguous():
        raise ValueError(f"x must be contiguous floats [T, M], not {x_TM.dtype} {tuple(x_TM.shape)}")
    if x_TM.shape[1] % GROUP:
        raise ValueError(f"{mx} wants a multiple of {GROUP} columns, not {x_TM.shape[1]}; pad x with zeros")
    values, scales = torch.ops.proa.quantize_mx(x_TM, mx)
    return values, scales


def dequantize_mx(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """float32 [..., M] of elements [..., M] (e4m3) or [..., M / 2] (uint8) and scale bytes [..., G], exact.

    Of numbers that float32 lacks, those below 2^-149 are rounded and those from 2^128 on are infinite. ValueError for
    tensors that do not fit together.
    """
    check_mx("values", values, scales)
    numbers = values.float() if format_of(values) == "mxfp8" else _e2m1_numbers(values)
    return (_split(numbers, GROUP) * scales.view(torch.float8_e8m0fnu).float()[..., None]).flatten(-2)


def check_mx(name: str, values: torch.Tensor, scales: torch.Tensor) -> None:
    """ValueError unless `scales` belong to microscaling `values` and both are contiguous; `name` is for the message."""
    mx = format_of(values)
    if mx is None:
        raise ValueError(f"{name} must be e4m3 (mxfp8) or uint8 (mxfp4) elements, not {values.dtype}")
    columns = values.shape[-1] * ELEMENTS[mx].per_byte
    fitting = (*values.shape[:-1], columns // GROUP)
    if columns % GROUP or scales.dtype != torch.uint8 or tuple(scales.shape) != fitting:
        raise ValueError(
            f"{mx} {name} of {columns} columns need a scale byte for each {GROUP}: uint8 {fitting},"
            f" not {scales.dtype} {tuple(scales.shape)}"
        )
    if not values.is_contiguous() or not scales.is_contiguous():
        raise ValueError(f"{name} and their scales must be contiguous; call .contiguous() once at load time")


def _split(x: torch.Tensor, size: int) -> torch.Tensor:
    """[..., columns / size, size]"""
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def _e2m1_numbers(pairs: torch.Tensor) -> torch.Tensor:
    codes = torch.stack((pairs & 15, pairs >> 4), -1).flatten(-2)
    table = torch.tensor((*E2M1, *(-number for number in E2M1)), device=pairs.device)
    return table[codes.int()]


def quantize_mx_ref(x_TM: torch.Tensor, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    elements = ELEMENTS[mx]
    groups = _split(x_TM.double(), GROUP)
    largest = groups.abs().amax(-1)
    is_finite = largest.isfinite()
    exponent = torch.frexp(largest.masked_fill(~is_finite, 0.0)).exponent - 1
    scale = torch.where(largest == 0, 0, exponent - elements.emax + 127).clamp(min=0)
    scaled = torch.ldexp(groups.masked_fill(~is_finite[..., None], 0.0), 127 - scale[..., None].double())
    numbers = scaled.flatten(1).clamp(-elements.largest, elements.largest).float()
    values = numbers.to(elements.dtype) if mx == "mxfp8" else _e2m1_pairs(numbers)
    return values, scale.masked_fill(~is_finite, NAN_SCALE).to(torch.uint8)


def _e2m1_pairs(numbers: torch.Tensor) -> torch.Tensor:
    """A number halfway between two codes goes to the even one."""
    size, codes = numbers.abs(), 8 * torch.signbit(numbers).to(torch.uint8)
    for code, (below, above) in enumerate(itertools.pairwise(E2M1)):
        middle = (below + above) / 2
        codes = codes + ((size > middle) if code % 2 == 0 else (size >= middle)).to(torch.uint8)
    low, high = _split(codes, 2).unbind(-1)
    return low | high << 4


@torch.library.custom_op("proa::quantize_mx", mutates_args=(), schema="(Tensor x, str mx) -> (Tensor, Tensor)")
def _quantize_mx_op(x: torch.Tensor, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    if arm_for("group_quant", x.device) == "reference":
        return quantize_mx_ref(x, mx)
    from proa_kernels.mxfp_triton import launch_quant_mx  # the reference needs no Triton

    values, scales = empty_mx(x, x.shape[0], x.shape[1], mx)
    launch_quant_mx(x, values, scales, mx)
    return values, scales


@_quantize_mx_op.register_fake
def _quantize_mx_fake(x: torch.Tensor, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    return empty_mx(x, x.shape[0], x.shape[1], mx)


def empty_mx(like: torch.Tensor, num_rows: int, columns: int, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Unwritten elements and scale bytes of [num_rows, columns] numbers."""
    elements = ELEMENTS[mx]
    values = like.new_empty((num_rows, columns // elements.per_byte), dtype=elements.dtype)
    return values, like.new_empty((num_rows, columns // GROUP), dtype=torch.uint8)
