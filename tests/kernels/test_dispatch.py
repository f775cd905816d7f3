"""Ops run directly on plain tensors and through torch's dispatcher wherever somebody looks."""

from __future__ import annotations

import pytest
import torch
from proa_kernels.dispatch import custom_op
from proa_kernels.norm import add_rms_norm
from torch._subclasses.fake_tensor import FakeTensorMode

calls: list[str] = []


@custom_op("proa_test::double", schema="(Tensor x) -> Tensor")
def double(x: torch.Tensor) -> torch.Tensor:
    calls.append(type(x).__name__)
    return x * 2


@double.register_fake
def _double_fake(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_plain_tensors_go_straight_to_the_function(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(double, "_dispatched", None)
    calls.clear()
    assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0))
    assert calls == ["Tensor"]


def test_fake_tensors_never_reach_the_function():
    calls.clear()
    with FakeTensorMode():
        assert double(torch.ones(3)).shape == (3,)
    assert calls == []


def test_compiled_code_holds_the_op():
    x, weight = torch.randn(2, 16), torch.ones(16)
    compiled = torch.compile(lambda x: add_rms_norm(x, x, weight, 1e-6)[0], backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), add_rms_norm(x, x, weight, 1e-6)[0])
