"""Microscaling formats: the references against numbers worked by hand, and the kernels bit by bit."""

from __future__ import annotations

import pytest
import torch
from proa_kernels.mxfp import ELEMENTS, GROUP, MxFormat, dequantize_mx, quantize_mx, quantize_mx_ref
from proa_kernels.mxfp_triton import launch_quant_mx
from proa_kernels.testing import relative_error

FORMATS: list[MxFormat] = ["mxfp8", "mxfp4"]
NAN, INF = float("nan"), float("inf")


def rows(tokens: int, size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Groups of very different magnitude, some numbers zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, size, generator=generator)
    exponents = torch.randint(-12, 12, (tokens, size // GROUP), generator=generator).repeat_interleave(GROUP, 1)
    is_zero = torch.rand(tokens, size, generator=generator) < 0.1
    return torch.ldexp(x, exponents).masked_fill(is_zero, 0.0).to(dtype)


def group_of(*numbers: float) -> torch.Tensor:
    return torch.tensor([[*numbers, *[0.0] * (GROUP - len(numbers))]])


def run(x: torch.Tensor, mx: MxFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel's bytes, with a row of canaries on both sides."""
    width, groups = x.shape[1] // ELEMENTS[mx].per_byte, x.shape[1] // GROUP
    values = torch.full((x.shape[0] + 2, width), 0xA5, dtype=torch.uint8)
    scales = torch.full((x.shape[0] + 2, groups), 0xA5, dtype=torch.uint8)
    launch_quant_mx(x, values[1:-1].view(ELEMENTS[mx].dtype), scales[1:-1], mx)
    for guarded in (values, scales):
        assert bool((guarded[[0, -1]] == 0xA5).all())
    return values[1:-1].view(ELEMENTS[mx].dtype), scales[1:-1]


def check_kernel(x: torch.Tensor, mx: MxFormat) -> None:
    for ours, theirs in zip(run(x, mx), quantize_mx_ref(x, mx), strict=True):
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


@pytest.mark.parametrize(
    ("x", "mx", "scale", "numbers"),
    [
        # the largest power of two of a group becomes 2^emax: 4 in e2m1, 256 in e4m3
        ((1.0, 0.5, -0.25), "mxfp4", 125, (1.0, 0.5, -0.25)),
        ((1.0, 2.0**-14), "mxfp8", 119, (1.0, 2.0**-14)),
        # the shared exponent ignores the mantissa: numbers past the largest element saturate
        ((7.9, -7.9, 5.0), "mxfp4", 127, (6.0, -6.0, 4.0)),
        ((511.0, -470.0, 464.0), "mxfp8", 127, (448.0, -448.0, 448.0)),
        # halfway between two neighbours the even code wins
        ((4.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0), "mxfp4", 127, (4, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0)),
        ((4.0, -0.25, -0.75, -5.0), "mxfp4", 127, (4.0, -0.0, -1.0, -4.0)),
        ((256.0, 17.0, 19.0, 2.0**-10, 3 * 2.0**-10), "mxfp8", 127, (256.0, 16.0, 20.0, 0.0, 2.0**-8)),
        # subnormal elements
        ((4.0, 0.5, 0.26, 0.24), "mxfp4", 127, (4.0, 0.5, 0.5, 0.0)),
        ((256.0, 2.0**-9, 5 * 2.0**-9), "mxfp8", 127, (256.0, 2.0**-9, 5 * 2.0**-9)),
        ((0.0, -0.0), "mxfp4", 0, (0.0, -0.0)),
        # the smallest scale is 2^-127
        ((2.0**-130, 2.0**-128), "mxfp4", 0, (0.0, 2.0**-128)),
        ((2.0**-127, 3 * 2.0**-128), "mxfp8", 0, (2.0**-127, 3 * 2.0**-128)),
        ((2.0**127, -(2.0**126)), "mxfp4", 252, (2.0**127, -(2.0**126))),
    ],
)
def test_one_group_by_hand(x: tuple[float, ...], mx: MxFormat, scale: int, numbers: tuple[float, ...]):
    values, scales = quantize_mx_ref(group_of(*x), mx)
    assert scales.tolist() == [[scale]]
    back = dequantize_mx(values, scales)[0, : len(numbers)]
    assert back.tolist() == list(numbers)
    assert torch.signbit(back).tolist() == torch.signbit(torch.tensor(numbers)).tolist()
    check_kernel(group_of(*x), mx)


@pytest.mark.parametrize("mx", FORMATS)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_group_with_nan_or_infinity_is_nan_and_its_neighbours_are_not(mx: MxFormat, bad: float):
    x = rows(1, 96)
    x[0, 40] = bad
    values, scales = quantize_mx_ref(x, mx)
    assert (scales == 255).tolist() == [[False, True, False]]
    back = dequantize_mx(values, scales)[0]
    assert back[32:64].isnan().all()
    assert back[:32].isfinite().all()
    assert back[64:].isfinite().all()
    check_kernel(x, mx)


def test_two_elements_of_a_byte_are_low_nibble_first():
    values, _ = quantize_mx_ref(group_of(4.0, -1.5), "mxfp4")
    assert values[0, 0] == 6 | (8 + 3) << 4


@pytest.mark.parametrize("mx", FORMATS)
def test_all_elements_survive_the_way_there_and_back(mx: MxFormat):
    codes = torch.arange(256, dtype=torch.uint8)
    is_nan = (codes & 127 == 127) if mx == "mxfp8" else codes < 0
    values = codes.masked_fill(is_nan, 0).view(8, -1)
    largest = 0x7E if mx == "mxfp8" else 0x77
    values[:, :: 16 * ELEMENTS[mx].per_byte] = largest  # so that every group keeps its scale
    values = values.view(ELEMENTS[mx].dtype)
    scales = torch.full((8, values.shape[1] * ELEMENTS[mx].per_byte // GROUP), 130, dtype=torch.uint8)
    again, scales_again = quantize_mx_ref(dequantize_mx(values, scales), mx)
    assert torch.equal(again.view(torch.uint8), values.view(torch.uint8))
    assert torch.equal(scales_again, scales)


@pytest.mark.parametrize("mx", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "size"), [(0, 32), (1, 32), (3, 96), (2, 2080), (5, 160)])
def test_kernel_gives_the_bytes_of_the_reference(tokens: int, size: int, dtype: torch.dtype, mx: MxFormat):
    check_kernel(rows(tokens, size, dtype), mx)


@pytest.mark.parametrize(("mx", "bound"), [("mxfp8", 2.0**-4), ("mxfp4", 2.0**-2)])
def test_round_trip_stays_within_half_a_step(mx: MxFormat, bound: float):
    """Half a step is 2^-(mantissa bits + 1) of a number; saturation adds at most 1/8 (e4m3) and 1/4 (e2m1) to that."""
    x = rows(64, 256)
    assert relative_error(dequantize_mx(*quantize_mx(x, mx)), x) < bound
    values, scales = quantize_mx(x, mx)
    assert relative_error(dequantize_mx(values, scales.roll(1, 1)), x) > bound  # the checker sees scales of a neighbour


def test_checker_catches_swapped_nibbles_and_a_truncated_number():
    x = rows(2, 64)
    values, scales = quantize_mx_ref(x, "mxfp4")
    swapped = values >> 4 | values << 4
    assert relative_error(dequantize_mx(swapped, scales), x) > 0.5
    x_other = x.clone()
    x_other[0, 1] *= 0.5
    assert not torch.equal(run(x_other, "mxfp4")[0], values)


@pytest.mark.parametrize(
    ("x", "mx", "message"),
    [
        (torch.zeros(2, 48), "mxfp4", "multiple of 32 columns, not 48"),
        (torch.zeros(2, 64), "mxfp6", "no microscaling format 'mxfp6'; known: mxfp8, mxfp4"),
        (torch.zeros(64, 2).T, "mxfp8", "contiguous floats"),
        (torch.zeros(64), "mxfp8", "contiguous floats"),
        (torch.zeros(2, 64, dtype=torch.int32), "mxfp8", "contiguous floats"),
    ],
)
def test_bad_input_is_named(x: torch.Tensor, mx: MxFormat, message: str):
    with pytest.raises(ValueError, match=message):
        quantize_mx(x, mx)


@pytest.mark.parametrize(
    ("values", "scales", "message"),
    [
        (torch.zeros(2, 64), torch.zeros(2, 2, dtype=torch.uint8), "not torch.float32"),
        (torch.zeros(2, 32, dtype=torch.uint8), torch.zeros(2, 1, dtype=torch.uint8), r"mxfp4 .* uint8 \(2, 2\)"),
        (torch.zeros(2, 32, dtype=torch.uint8), torch.zeros(2, 2), "not torch.float32"),
        (torch.zeros(2, 24, dtype=torch.uint8), torch.zeros(2, 1, dtype=torch.uint8), "48 columns"),
        (torch.zeros(32, 2, dtype=torch.uint8).T, torch.zeros(2, 2, dtype=torch.uint8), "must be contiguous"),
    ],
)
def test_elements_and_scales_that_do_not_fit_are_named(values: torch.Tensor, scales: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        dequantize_mx(values, scales)


def test_op_has_a_fake_version_with_the_same_shapes():
    for mx in FORMATS:
        torch.library.opcheck(
            torch.ops.proa.quantize_mx.default, (rows(3, 96), mx), test_utils=("test_schema", "test_faketensor")
        )
