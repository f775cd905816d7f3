"""`proa_kernels.vllm` against a double of vLLM 0.32.0: the names it imports and the calls that reach it.

The double follows `custom_op.py`, `unquantized_fused_moe_method.py` and `modular_kernel.py` of that version. The real
one is checked by `vllm_check.py`, run by a python that has vLLM.
"""

from __future__ import annotations

import enum
import importlib
import logging
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from proa_kernels.moe_decode import decode_ref
from proa_kernels.tables import LayerShape
from proa_kernels.testing import relative_error, tolerance
from proa_kernels.tune_problem import Problem

LAYERS = "vllm.model_executor.layers.fused_moe"
SHAPE = LayerShape(num_experts=5, per_token=2, hidden=64, width=32)
Format = enum.Enum("Format", ["Standard", "BatchedExperts"])
MoEActivation = enum.Enum("MoEActivation", ["SILU", "GELU"])
Backend = enum.Enum("Backend", ["TRITON", "AITER"])


class Modular:
    """Base of experts: asks a class what it supports, as vLLM's oracle does."""

    @staticmethod
    def is_supported_config(cls, moe, weight_key, activation_key, wanted) -> tuple[bool, str | None]:
        if not cls._supports_current_device():
            return False, "kernel does not support current device"
        if not (moe.is_act_and_mul or cls._supports_no_act_and_mul()):
            return False, "kernel does not support no act_and_mul MLP layer"
        if not cls._supports_activation(moe.activation):
            return False, f"kernel does not support {moe.activation} activation"
        if not cls._supports_quant_scheme(weight_key, activation_key):
            return False, "kernel does not support quantization scheme"
        if not cls._supports_parallel_config(moe.moe_parallel_config):
            return False, "kernel does not support parallel config"
        if wanted != cls.activation_format():
            return False, "kernel does not support batched activation format"
        return True, None


def double() -> tuple[dict[str, ModuleType], dict[str, type]]:
    registry: dict[str, type] = {}

    class UnquantizedFusedMoEMethod:
        def __new__(cls, *_: Any) -> Any:
            return object.__new__(registry.get(cls.__name__, cls))

        def __init__(self, moe: Any) -> None:
            self.unquantized_backend, self.experts_cls = Backend.AITER, Modular

        def _maybe_pad_weight(self, weight: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(weight, (0, 128), "constant", 0)[..., :-128]  # as on ROCm

        def process_weights_after_loading(self, layer: Any) -> None:
            for name in ("w13_weight", "w2_weight"):
                setattr(layer, name, self._maybe_pad_weight(getattr(layer, name)))

        @classmethod
        def register_oot(cls, replacement: type) -> type:
            assert cls.__name__ not in registry
            registry[cls.__name__] = replacement
            return replacement

    names = {
        "vllm": {},
        "vllm.model_executor": {},
        "vllm.model_executor.custom_op": {"op_registry_oot": registry},
        "vllm.model_executor.layers": {},
        LAYERS: {},
        f"{LAYERS}.modular_kernel": {"FusedMoEExpertsModular": Modular, "FusedMoEActivationFormat": Format},
        f"{LAYERS}.activation": {"MoEActivation": MoEActivation},
        f"{LAYERS}.oracle": {},
        f"{LAYERS}.oracle.unquantized": {"UnquantizedMoeBackend": Backend},
        f"{LAYERS}.topk_weight_and_reduce": {"TopKWeightAndReduceNoOP": type("NoOP", (), {})},
        f"{LAYERS}.unquantized_fused_moe_method": {"UnquantizedFusedMoEMethod": UnquantizedFusedMoEMethod},
    }
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        module.__dict__.update(names[name])
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    return modules, registry


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    modules, registry = double()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "proa_kernels.vllm", raising=False)
    method = modules[f"{LAYERS}.unquantized_fused_moe_method"].UnquantizedFusedMoEMethod
    yield SimpleNamespace(module=importlib.import_module("proa_kernels.vllm"), registry=registry, method=method)
    sys.modules.pop("proa_kernels.vllm", None)


def config(**changes: Any) -> SimpleNamespace:
    parallel = SimpleNamespace(use_batched_activation_format=changes.pop("batched", False))
    fields = {
        "in_dtype": torch.bfloat16, "has_bias": False, "is_act_and_mul": True, "activation": MoEActivation.SILU,
        "moe_parallel_config": parallel,
    }  # fmt: skip
    return SimpleNamespace(**fields | changes)


def test_models_built_after_register_use_our_experts(ours: SimpleNamespace):
    assert ours.method(config()).experts_cls is Modular
    ours.module.register(on_cpu=True)
    ours.module.register(on_cpu=True)
    layer = ours.method(config())
    assert layer.experts_cls is ours.module.ProaExperts
    assert layer.unquantized_backend is Backend.TRITON  # the checkpoint's layout


def test_without_a_gpu_experts_stay_with_vllm(ours: SimpleNamespace):
    ours.module.register()
    layer = ours.method(config())
    assert layer.experts_cls is Modular
    assert layer.unquantized_backend is Backend.AITER


def test_a_second_package_with_the_same_hook_is_named(ours: SimpleNamespace):
    ours.registry["UnquantizedFusedMoEMethod"] = SimpleNamespace
    with pytest.raises(RuntimeError, match="types replaced vLLM's UnquantizedFusedMoEMethod already"):
        ours.module.register()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"in_dtype": torch.float32}, "experts of torch.float32; the kernels take 16-bit types"),
        ({"has_bias": True}, "experts with biases"),
        ({"is_act_and_mul": False}, "no act_and_mul"),
        ({"activation": MoEActivation.GELU}, "GELU activation"),
        ({"batched": True}, "batched activation format"),
        ({}, ""),
    ],
)
def test_layers_that_stay_with_vllm(
    ours: SimpleNamespace, changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
):
    ours.module.register(on_cpu=True)
    with caplog.at_level(logging.WARNING):
        layer = ours.method(config(**changes))
    assert (layer.experts_cls is Modular) == bool(reason)
    assert [reason in record.__dict__["reason"] for record in caplog.records] == ([True] if reason else [])


def run(
    ours: SimpleNamespace, problem: Problem, ids: torch.Tensor, weights: torch.Tensor, **changes: Any
) -> torch.Tensor:
    experts = ours.module.ProaExperts()
    shapes = experts.workspace_shapes(7, 64, 64, 2, 5, 5, None, MoEActivation.SILU)
    assert shapes == ((0,), (0,), (7, 64))
    arguments = {
        "output": torch.full((7, 64), float("nan"), dtype=torch.float16), "hidden_states": problem.x, "w1": problem.w13,
        "w2": problem.w2, "topk_weights": weights, "topk_ids": ids, "activation": MoEActivation.SILU,
        "global_num_experts": 5, "expert_map": None, "a1q_scale": None, "a2_scale": None,
        "workspace13": torch.empty(0), "workspace2": torch.empty(0), "expert_tokens_meta": None,
        "apply_router_weight_on_input": False,
    }  # fmt: skip
    assert experts.apply(**arguments | changes) is None
    return (arguments | changes)["output"]


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(0)
    return Problem.random(SHAPE, "bf16", 7, torch.device("cpu"))


@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.float16])
def test_apply_is_the_layer(
    ours: SimpleNamespace, problem: Problem, ids_dtype: torch.dtype, weights_dtype: torch.dtype
):
    weights = problem.weights.to(weights_dtype)
    out = run(ours, problem, problem.ids[0].to(ids_dtype), weights)
    exact = decode_ref(problem.x.float(), weights.float(), problem.ids[0], problem.w13, problem.w2)
    assert relative_error(out, exact) < tolerance(torch.float16, num_roundings=3, depth=64)


def test_rocm_weights_stay_contiguous_for_our_experts(ours: SimpleNamespace, problem: Problem):
    ours.module.register(on_cpu=True)
    layer = SimpleNamespace(w13_weight=problem.w13, w2_weight=problem.w2)
    ours.method(config()).process_weights_after_loading(layer)
    out = run(ours, problem, problem.ids[0], problem.weights, w1=layer.w13_weight, w2=layer.w2_weight)
    assert torch.equal(out, run(ours, problem, problem.ids[0], problem.weights))


def test_rocm_weights_of_layers_that_stay_with_vllm_are_padded(ours: SimpleNamespace, problem: Problem):
    ours.module.register(on_cpu=True)
    layer = SimpleNamespace(w13_weight=problem.w13, w2_weight=problem.w2)
    ours.method(config(has_bias=True)).process_weights_after_loading(layer)
    assert not layer.w13_weight.is_contiguous()


def test_experts_of_other_gpus_add_nothing(ours: SimpleNamespace, problem: Problem):
    """Of ten experts the five of this GPU are the odd ones."""
    expert_map = torch.tensor([-1, 0, -1, 1, -1, 2, -1, 3, -1, 4], dtype=torch.int32)
    ids = torch.randint(0, 10, (7, 2), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    out = run(ours, problem, ids, problem.weights, expert_map=expert_map, global_num_experts=10)
    local = expert_map[ids.long()]
    exact = decode_ref(problem.x.float(), problem.weights, local, problem.w13, problem.w2)
    assert (local < 0).any()
    assert relative_error(out, exact) < tolerance(torch.float16, num_roundings=3, depth=64)


def test_weights_that_were_put_on_the_input_count_once(ours: SimpleNamespace, problem: Problem):
    out = run(ours, problem, problem.ids[0], problem.weights, apply_router_weight_on_input=True)
    ones = torch.ones_like(problem.weights)
    exact = decode_ref(problem.x.float(), ones, problem.ids[0], problem.w13, problem.w2)
    assert relative_error(out, exact) < tolerance(torch.float16, num_roundings=3, depth=64)
