"""Norm in the interpreter against its reference, and the reference against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from proa_kernels.norm import add_rms_norm, rms_norm, rms_norm_ref
from proa_kernels.norm_triton import launch_rms_norm
from proa_kernels.testing import Guarded, relative_error, tolerance

CPU = torch.device("cpu")
EPS = 1e-5


def rows(tokens: int, size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Normed rows and sum; fails when something around them was written."""
    out, total = (Guarded.empty(tuple(x.shape), x.dtype, CPU) for _ in range(2))
    launch_rms_norm(x, residual, weight, EPS, out.tensor, None if residual is None else total.tensor)
    assert out.is_intact()
    assert total.is_intact()
    return out.tensor, total.tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("tokens", "size"), [(0, 8), (1, 1), (3, 100), (2, 128), (5, 1500)])
def test_norm_equals_reference(tokens: int, size: int, dtype: torch.dtype):
    x, weight = rows(tokens, size, dtype), rows(1, size, dtype, 1)[0]
    out, _ = run(x, weight, None)
    assert relative_error(out, rms_norm_ref(x.double().float(), weight.float(), EPS)) < tolerance(dtype, depth=size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("tokens", "size"), [(1, 16), (4, 96)])
def test_sum_is_rounded_before_the_norm(tokens: int, size: int, dtype: torch.dtype):
    x, residual, weight = rows(tokens, size, dtype), rows(tokens, size, dtype, 1) * 100, rows(1, size, dtype, 2)[0]
    out, total = run(x, weight, residual)
    assert torch.equal(total, x + residual)
    assert relative_error(out, rms_norm_ref((x + residual).float(), weight.float(), EPS)) < tolerance(dtype, depth=size)


def test_rows_may_be_apart():
    wide, weight = rows(3, 40, torch.float32), torch.ones(24)
    out, _ = run(wide[:, 8:32], weight, None)
    assert relative_error(out, rms_norm_ref(wide[:, 8:32].contiguous(), weight, EPS)) < tolerance(
        torch.float32, depth=24
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference_is_torchs_norm(dtype: torch.dtype):
    x, weight = rows(4, 64, dtype), rows(1, 64, dtype, 1)[0]
    assert relative_error(rms_norm(x, weight, EPS), F.rms_norm(x, (64,), weight, EPS)) < tolerance(
        dtype, num_roundings=2
    )
    normed, total = add_rms_norm(x, x, weight, EPS)
    assert torch.equal(total, x + x)
    assert torch.equal(normed, rms_norm(x + x, weight, EPS))


def test_checker_catches_a_sum_that_was_not_rounded():
    x, residual = rows(2, 64, torch.float16), rows(2, 64, torch.float16, 1) * 1000
    assert not torch.equal(
        run(x, torch.ones(64, dtype=torch.float16), residual)[1].float(), x.float() + residual.float()
    )


def test_checker_catches_another_eps():
    x, weight = rows(2, 64, torch.float32) * 1e-3, torch.ones(64)
    assert relative_error(run(x, weight, None)[0], rms_norm_ref(x, weight, 10 * EPS)) > tolerance(
        torch.float32, depth=64
    )


@pytest.mark.parametrize(
    ("x", "residual", "weight", "message"),
    [
        (torch.zeros(2, 8, dtype=torch.int32), None, torch.zeros(8), "float rows"),
        (torch.zeros(8, 2).T, None, torch.zeros(8), "float rows"),
        (torch.zeros(2, 8), None, torch.zeros(4), r"weight must be torch.float32 \[8\]"),
        (torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.float16), torch.zeros(8), "residual"),
        (torch.zeros(2, 8), torch.zeros(2, 4), torch.zeros(8), "residual"),
    ],
)
def test_bad_input_is_named(x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        rms_norm(x, weight, EPS) if residual is None else add_rms_norm(x, residual, weight, EPS)


def test_ops_have_fake_versions_with_the_same_shapes():
    x, weight = rows(3, 32, torch.float32), torch.ones(32)
    for op, arguments in (
        (torch.ops.proa.rms_norm, (x, weight, EPS)),
        (torch.ops.proa.add_rms_norm, (x, x.clone(), weight, EPS)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))
