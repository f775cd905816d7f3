"""The contract with AITER, kept by a fake that records the call and computes the reference.

Its signatures are those of github.com/ROCm/aiter at e4048607a535ace3a2b51ded31b1c8c2d45c0879; AITER itself needs a GPU.
"""

from __future__ import annotations

import enum
import logging
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from proa_kernels import doctor, doctor_checks, doctor_timings, moe_layer, tune
from proa_kernels.aiter_arm import AiterExperts, check_layout, why_no_aiter
from proa_kernels.arch import GFX942, SM90
from proa_kernels.moe_layer import prepared_experts
from proa_kernels.tables import LayerShape
from proa_kernels.testing import relative_error, tolerance
from proa_kernels.tune_problem import Problem

CPU = torch.device("cpu")
SHAPE = LayerShape(num_experts=5, per_token=2, hidden=256, width=128)


class ActivationType(enum.Enum):
    Silu = 0


class QuantType(enum.Enum):
    No = 0
    per_Token = 2
    per_128x128 = 5


def shuffled(weights: torch.Tensor, layout: tuple[int, int] = (16, 16)) -> torch.Tensor:
    """Another order of the same numbers, so that reading them as they were gives nonsense."""
    assert layout == (16, 16)
    out = weights.flip(1).clone()
    out.is_shuffled = True
    return out


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SimpleNamespace]]:
    """Installs the fake and lists its calls."""
    seen: list[SimpleNamespace] = []

    def fused_moe(
        hidden_states: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor, topk_weight: torch.Tensor,
        topk_ids: torch.Tensor, expert_mask: object = None, activation: ActivationType = ActivationType.Silu,
        quant_type: QuantType = QuantType.No, doweight_stage1: bool = False,
        w1_scale: torch.Tensor | None = None, w2_scale: torch.Tensor | None = None, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        seen.append(SimpleNamespace(**locals()))
        assert getattr(w1, "is_shuffled", False)
        assert getattr(w2, "is_shuffled", False)
        assert topk_ids.dtype == torch.int32
        assert topk_weight.dtype == torch.float32
        assert topk_ids.min() >= 0  # AITER sorts without a bound check
        assert topk_ids.max() < w1.shape[0]
        flat = (w1_scale[..., 0] if quant_type is QuantType.per_Token else w1_scale, w2_scale)
        scale2 = flat[1][..., 0] if quant_type is QuantType.per_Token and flat[1] is not None else flat[1]
        sizes = LayerShape(num_experts=w1.shape[0], per_token=topk_ids.shape[1], hidden=w2.shape[1], width=w2.shape[2])
        problem = Problem(
            shape=sizes, x=hidden_states, w13=w1.flip(1), w13_scale=flat[0], w2=w2.flip(1), w2_scale=scale2,
            weights=topk_weight, ids=[topk_ids],
        )  # fmt: skip
        return problem.expected(0).to(hidden_states.dtype)

    root, module, ops, shuffle = (ModuleType(name) for name in ("aiter", "fused_moe", "ops", "shuffle"))
    root.ActivationType, root.QuantType = ActivationType, QuantType
    module.fused_moe, shuffle.shuffle_weight = fused_moe, shuffled
    names = {"aiter": root, "aiter.fused_moe": module, "aiter.ops": ops, "aiter.ops.shuffle": shuffle}
    for name, one in names.items():
        monkeypatch.setitem(sys.modules, name, one)
    why_no_aiter.cache_clear()
    yield seen
    why_no_aiter.cache_clear()


def problem(kind: str = "bf16") -> Problem:
    torch.manual_seed(0)
    return Problem.random(SHAPE, kind, 7, CPU)


def layer(one: Problem, arm: Any = "aiter") -> Any:
    return prepared_experts(one.w13, one.w2, w13_scale=one.w13_scale, w2_scale=one.w2_scale, arm=arm)


@pytest.mark.parametrize(("kind", "quant"), [("bf16", QuantType.No), ("a16w8", QuantType.per_128x128)])
def test_the_call(calls: list[SimpleNamespace], kind: str, quant: QuantType):
    one = problem(kind)
    out = layer(one)(one.x, one.weights, one.ids[0])
    assert relative_error(out, one.expected(0)) < tolerance(out.dtype, depth=256)
    (call,) = calls
    assert call.quant_type is quant
    assert call.activation is ActivationType.Silu
    assert (call.expert_mask, call.doweight_stage1, call.kwargs) == (None, False, {})
    assert call.w1.shape == one.w13.shape
    assert torch.equal(call.topk_ids, one.ids[0])
    assert torch.equal(call.topk_weight, one.weights)


def test_scales_of_rows_have_a_last_dim_of_one(calls: list[SimpleNamespace]):
    one = problem("a16w8")
    rows = (torch.rand(5, 256) + 0.5, torch.rand(5, 256) + 0.5)
    run = prepared_experts(one.w13, one.w2, w13_scale=rows[0], w2_scale=rows[1], arm="aiter")
    run(one.x, one.weights, one.ids[0])
    assert calls[0].quant_type is QuantType.per_Token
    assert calls[0].w1_scale.shape == calls[0].w2_scale.shape == (5, 256, 1)


def test_ids_outside_the_experts_weigh_nothing(calls: list[SimpleNamespace]):
    one = problem()
    ids = one.ids[0].clone()
    ids[0, 0], ids[1, 1], ids[2] = -1, SHAPE.num_experts, -1
    out = layer(one)(one.x, one.weights, ids)
    ours = layer(one, "proa")(one.x, one.weights, ids)
    assert relative_error(out, ours) < tolerance(out.dtype, num_roundings=2, depth=256)
    assert not out[2].any()


@pytest.mark.parametrize(
    ("x_dtype", "ids_dtype", "weights_dtype"),
    [
        (torch.float32, torch.int32, torch.float32),
        (torch.float16, torch.int64, torch.float32),
        (torch.float16, torch.int32, torch.float16),
    ],
)
def test_other_dtypes_are_refused(
    calls: list[SimpleNamespace], x_dtype: torch.dtype, ids_dtype: torch.dtype, weights_dtype: torch.dtype
):
    one = problem()
    with pytest.raises(ValueError, match="AITER wants 16-bit activations, int32 ids and float32 weights"):
        layer(one)(one.x.to(x_dtype), one.weights.to(weights_dtype), one.ids[0].to(ids_dtype))
    assert calls == []


@pytest.mark.parametrize(
    ("rows", "hidden", "width", "line"),
    [(256, 40, 128, "tiles of 16 x 32"), (24, 64, 12, "tiles of 16 x 32"), (192, 64, 96, "multiple of 64, not 96"),
     (448, 64, 224, "multiple of 128, not 224")],
)  # fmt: skip
def test_sizes_that_aiter_does_not_take(rows: int, hidden: int, width: int, line: str):
    with pytest.raises(ValueError, match=line):
        check_layout(torch.empty(2, rows, hidden), torch.empty(2, hidden, width))


def on(monkeypatch: pytest.MonkeyPatch, arch: Any) -> None:
    monkeypatch.setattr(moe_layer, "arch_of", lambda _: arch)


def test_rocm_takes_aiter(calls: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch):
    one = problem()
    on(monkeypatch, GFX942)
    assert isinstance(layer(one, None), AiterExperts)
    on(monkeypatch, SM90)
    assert not isinstance(layer(one, None), AiterExperts)


@pytest.mark.parametrize("reason", ["aiter is not installed", "AITER wants an expert width"])
def test_rocm_without_aiter_runs_our_kernels_and_says_so_once(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    one = problem()
    on(monkeypatch, GFX942)
    monkeypatch.setattr(moe_layer, "why_not_aiter", lambda *_: reason)
    moe_layer._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        outs = [layer(one, None)(one.x, one.weights, one.ids[0]) for _ in range(2)]
    assert relative_error(outs[0], one.expected(0)) < tolerance(outs[0].dtype, num_roundings=3, depth=256)
    assert [record.__dict__["reason"] for record in caplog.records] == [reason]


def test_the_doctor_checks_aiter(calls: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_checks, "arch_of", lambda _: GFX942)
    check = dict(doctor_checks.checks(CPU))["aiter experts"]
    assert check() == ""
    assert len(calls) == 1
    monkeypatch.setattr(
        sys.modules["aiter.ops.shuffle"], "shuffle_weight", lambda weights, layout: shuffled(weights * 2)
    )
    assert check().startswith("off by")


def test_aiter_by_name_must_be_there():
    one = problem()
    with pytest.raises(ImportError, match="aiter"):
        layer(one)


def broken(error: Exception) -> type:
    """Finds the package and cannot execute it, as a wheel for another ROCm does."""

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> ModuleSpec | None:
            return ModuleSpec(name, Finder) if name == "aiter" else None

        @staticmethod
        def create_module(_: ModuleSpec) -> None: ...

        @staticmethod
        def exec_module(_: ModuleType) -> None:
            raise error

    return Finder


@pytest.mark.parametrize(
    "error",
    [ImportError("libamdhip64.so.7: cannot open"), OSError("no such object"), AttributeError("no attribute 'x'"),
     RuntimeError("rocminfo failed\nmore")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_an_aiter_that_cannot_be_imported_is_a_reason(error: Exception, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "aiter", raising=False)
    monkeypatch.setattr(sys, "meta_path", [broken(error), *sys.meta_path])
    why_no_aiter.cache_clear()
    is_left_to_us(f"aiter cannot be used: {str(error).splitlines()[0]}", monkeypatch)


def test_another_package_of_that_name_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "aiter", ModuleType("aiter"))
    why_no_aiter.cache_clear()
    is_left_to_us("aiter cannot be used: No module named 'aiter.", monkeypatch)


def is_left_to_us(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody raises, and whoever reports says why."""
    for module in (moe_layer, doctor, doctor_checks, doctor_timings, tune):
        monkeypatch.setattr(module, "arch_of", lambda _: GFX942)
    one = problem()
    assert not isinstance(layer(one, None), AiterExperts)
    assert tune._in_aiter_layout(one) is None
    verdict = dict(doctor_checks.checks(CPU))["aiter experts"]()
    assert verdict.startswith(f"not built: {reason}")
    assert not doctor.is_wrong(verdict)
    assert doctor.about(CPU)["aiter"].startswith(reason)
    assert doctor_timings.layer_arms(CPU) == ("proa",)
    why_no_aiter.cache_clear()


def test_aiter_is_for_instinct_alone(calls: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch):
    assert why_no_aiter(SM90) == "AITER has no kernels for sm90"
    assert why_no_aiter(GFX942) == ""
    assert "aiter experts" not in dict(doctor_checks.checks(CPU))
    assert doctor_timings.layer_arms(CPU) == ("proa",)
    monkeypatch.setattr(doctor_timings, "arch_of", lambda _: GFX942)
    assert doctor_timings.layer_arms(CPU) == ("proa", "aiter")
