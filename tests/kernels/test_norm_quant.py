"""Norm and quantisation in one launch: equal to the bit to the two launches, which have tests of their own."""

from __future__ import annotations

import pytest
import torch
from proa_kernels.norm import add_rms_norm, rms_norm
from proa_kernels.norm_quant import add_rms_norm_quant, rms_norm_quant
from proa_kernels.norm_quant_triton import launch_norm_quant
from proa_kernels.norm_triton import launch_rms_norm
from proa_kernels.quant import quantize
from proa_kernels.quant_triton import launch_quant
from proa_kernels.testing import Guarded

CPU = torch.device("cpu")
E4M3 = torch.float8_e4m3fn
EPS = 1e-5
Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def rows(tokens: int, size: int, dtype: torch.dtype = torch.float16, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def fused(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, group: int, eps: float = EPS
) -> Outputs:
    """Values, scales and sum of one launch; fails when something around them was written."""
    tokens, size = x.shape
    scales = Guarded.empty((tokens, -(-size // group) if group else 1), torch.float32, CPU)
    total = Guarded.empty((tokens, size) if residual is not None else (0,), x.dtype, CPU)
    values = torch.full((tokens + 2, size), 7.0).to(E4M3)
    launch_norm_quant(x, residual, weight, EPS, values[1:-1], scales.tensor, total.tensor, group)
    assert scales.is_intact()
    assert total.is_intact()
    assert bool((values[[0, -1]].float() == 7.0).all())
    return values[1:-1], scales.tensor, total.tensor


def in_sequence(x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, group: int) -> Outputs:
    """The same by the launches that the engine has today."""
    tokens, size = x.shape
    normed = torch.empty(tokens, size, dtype=x.dtype)
    total = torch.empty((tokens, size) if residual is not None else (0,), dtype=x.dtype)
    launch_rms_norm(x, residual, weight, EPS, normed, None if residual is None else total)
    values = torch.empty(tokens, size).to(E4M3)
    scales = torch.empty(tokens, -(-size // group) if group else 1)
    launch_quant(normed, values, scales, group, has_silu=False)
    return values, scales, total


def differing(ours: Outputs, theirs: Outputs) -> list[str]:
    names = ("values", "scales", "sum")
    pairs = zip(names, ours, theirs, strict=True)
    return [name for name, a, b in pairs if not torch.equal(a.view(torch.uint8), b.view(torch.uint8))]


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("tokens", "size", "group"),
    [(0, 64, 32), (1, 1, 128), (3, 256, 128), (2, 200, 64), (4, 96, 0), (2, 3000, 128), (2, 130, 128)],
)
def test_one_launch_equals_two(tokens: int, size: int, group: int, dtype: torch.dtype, has_residual: bool):
    x, weight = rows(tokens, size, dtype), rows(1, size, dtype, 1)[0]
    residual = rows(tokens, size, dtype, 2) * 30 if has_residual else None
    assert differing(fused(x, residual, weight, group), in_sequence(x, residual, weight, group)) == []


def test_rows_may_be_apart_and_zeros_get_a_scale_of_one():
    wide, weight = rows(3, 96), rows(1, 64, seed=1)[0]
    wide[1] = 0
    x = wide[:, 16:80]
    ours = fused(x, None, weight, 32)
    assert differing(ours, in_sequence(x, None, weight, 32)) == []
    assert ours[1][1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("group", [128, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference_is_the_two_ops(dtype: torch.dtype, group: int):
    x, residual, weight = rows(4, 200, dtype), rows(4, 200, dtype, 1), rows(1, 200, dtype, 2)[0]
    normed, total = add_rms_norm(x, residual, weight, EPS)
    assert (
        differing(add_rms_norm_quant(x, residual, weight, EPS, E4M3, group), (*quantize(normed, E4M3, group), total))
        == []
    )
    empty = x.new_empty(0)
    alone = (*rms_norm_quant(x, weight, EPS, E4M3, group), empty)
    assert differing(alone, (*quantize(rms_norm(x, weight, EPS), E4M3, group), empty)) == []


def test_checker_catches_a_norm_that_was_not_rounded():
    """float16 rows against the same numbers in float32: what skipping the rounding before the scale would give."""
    x, weight = rows(3, 256), rows(1, 256, seed=1)[0]
    unrounded = in_sequence(x.float(), None, weight.float(), 128)
    assert "scales" in differing((*fused(x, None, weight, 128)[:2], unrounded[2]), unrounded)


def test_checker_catches_a_scale_of_the_next_group():
    x, weight = rows(2, 256), rows(1, 256, seed=1)[0]
    values, scales, total = fused(x, None, weight, 128)
    assert differing((values, scales.flip(1), total), in_sequence(x, None, weight, 128)) == ["scales"]


@pytest.mark.parametrize(
    ("x", "residual", "dtype", "group", "message"),
    [
        (torch.zeros(2, 8, dtype=torch.int32), None, E4M3, 4, "float rows"),
        (torch.zeros(2, 4), None, E4M3, 4, r"weight must be torch.float32 \[4\]"),
        (torch.zeros(2, 8), torch.zeros(1, 8), E4M3, 4, "residual"),
        (torch.zeros(2, 8), None, torch.float16, 4, "fp8 means"),
        (torch.zeros(2, 8), None, E4M3, 6, "power of two"),
    ],
)
def test_bad_input_is_named(
    x: torch.Tensor, residual: torch.Tensor | None, dtype: torch.dtype, group: int, message: str
):
    others = (torch.zeros(8), EPS, dtype, group)
    with pytest.raises(ValueError, match=message):
        rms_norm_quant(x, *others) if residual is None else add_rms_norm_quant(x, residual, *others)


def test_op_has_a_fake_version_with_the_same_shapes():
    x, weight = rows(3, 96, torch.float32), torch.ones(96)
    op, tests = torch.ops.proa.norm_quant.default, ("test_schema", "test_faketensor")
    for residual in (None, x.clone()):
        for group in (64, 0):
            torch.library.opcheck(op, (x, residual, weight, EPS, E4M3, group), test_utils=tests)
