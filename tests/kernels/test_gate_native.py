"""The CUDA/HIP text of the gate, run on the CPU by an emulator of blocks with waves of 32 and of 64."""

from __future__ import annotations

import ctypes
import logging
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from proa_kernels import gate as gate_module
from proa_kernels import gate_native, native
from proa_kernels.arch import SM90
from proa_kernels.gate import GateSpec, gate_ref
from proa_kernels.native import pointer, text_of
from proa_kernels.testing import Guarded, tolerance

CPU = torch.device("cpu")
TEXT = text_of("gate")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ for the emulator")
GROUPED = GateSpec(top_k=8, score="sigmoid", num_groups=8, top_groups=4, group_score="top2", scale=2.5)
# spec, experts, has a bias, dtype
SPECS = [
    (GateSpec(top_k=1), 1, False, torch.float32),
    (GateSpec(top_k=6, renormalize=False), 64, False, torch.float32),
    (GateSpec(top_k=8), 128, False, torch.float32),
    (GateSpec(top_k=8), 100, False, torch.bfloat16),
    (GateSpec(top_k=8, score="sigmoid"), 32, True, torch.bfloat16),
    (GateSpec(top_k=4), 16, True, torch.float32),
    (GateSpec(top_k=4, num_groups=4, top_groups=2, renormalize=False), 16, False, torch.float32),
    (GateSpec(top_k=3, num_shared=2, scale=2.0), 12, False, torch.float32),
    (GateSpec(top_k=16, renormalize=False, scale=16.0), 256, False, torch.bfloat16),
    (GROUPED, 256, True, torch.float32),
    (replace(GROUPED, group_score="max"), 128, True, torch.float32),
]


@pytest.fixture(scope="module", params=[32, 64])
def functions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, emulate) -> ctypes.CDLL:
    return emulate(tmp_path_factory.mktemp("gate") / "build", request.param, TEXT)


def run(
    functions: ctypes.CDLL,
    logits: torch.Tensor,
    spec: GateSpec,
    bias: torch.Tensor | None = None,
    is_rounded: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (logits.shape[-2], spec.top_k + spec.num_shared)
    guards = Guarded.empty(shape, torch.float32, CPU), Guarded.empty(shape, torch.int32, CPU)
    error = functions.proa_gate(
        *map(pointer, (logits, bias, guards[0].tensor, guards[1].tensor)), *logits.shape[-2:], spec.top_k,
        spec.num_shared, spec.num_groups, spec.top_groups, len(logits) if logits.dim() == 3 else 1,
        logits.dtype == torch.float32, spec.score == "softmax", spec.renormalize, is_rounded,
        spec.group_score == "top2", ctypes.c_float(spec.scale), None,
    )  # fmt: skip
    assert error == 0
    assert all(guard.is_intact() for guard in guards)
    return guards[0].tensor, guards[1].tensor


def agrees(functions: ctypes.CDLL, logits: torch.Tensor, spec: GateSpec, bias: torch.Tensor | None = None) -> bool:
    (weights, ids), (weights_ref, ids_ref) = run(functions, logits, spec, bias), gate_ref(logits, spec, bias)
    bound = 8 * tolerance(torch.float32, num_roundings=4)
    return torch.equal(ids, ids_ref) and torch.allclose(weights, weights_ref, rtol=bound, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(("spec", "num_experts", "has_bias", "dtype"), SPECS)
@pytest.mark.parametrize("tokens", [1, 5])
def test_random_logits(functions, spec: GateSpec, num_experts: int, has_bias: bool, dtype: torch.dtype, tokens: int):
    torch.manual_seed(tokens)
    logits = torch.randn(tokens, num_experts).to(dtype)
    assert agrees(functions, logits, spec, torch.randn(num_experts) if has_bias else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_take_the_lowest_ids(functions, dtype: torch.dtype):
    logits = torch.zeros(2, 256, dtype=dtype)
    logits[1, ::2] = -0.0
    logits[1, 9] = 1.0
    ids = run(functions, logits, GateSpec(top_k=4))[1]
    assert ids.tolist() == [[0, 1, 2, 3], [9, 0, 1, 2]]


def test_scores_that_differ_in_their_last_bits_keep_their_order(functions):
    """Within the bits that the id takes in a key; the last of the best and the first of the rest, too."""
    step = torch.finfo(torch.float32).eps
    logits = torch.arange(256).float().mul(-1).expand(3, -1).clone()
    logits[0, 40:48] = 1.0 + step * torch.tensor([3, 9, 1, 7, 0, 8, 2, 5])
    logits[1, 50:59] = 1.0 + step * torch.tensor([8, 7, 6, 5, 4, 3, 2, 0, 1])
    logits[2, 60] = -0.0 + step
    assert agrees(functions, logits, GateSpec(top_k=8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_ids_stay_valid_for_odd_logits(functions, value: float, dtype: torch.dtype):
    for logits in (torch.full((1, 64), value, dtype=dtype), torch.zeros(1, 64, dtype=dtype)):
        logits[0, 5] = value
        ids = run(functions, logits, GateSpec(top_k=4))[1][0].tolist()
        assert len(set(ids)) == 4
        assert set(ids) <= set(range(64))
        if value != -math.inf and not logits.isnan().all() and not logits.isinf().all():
            assert ids[0] == 5


def test_parts_are_summed_and_rounded(functions):
    parts = torch.randn(3, 4, 128, generator=torch.Generator().manual_seed(4))
    for is_rounded in (False, True):
        logits = parts[0] + parts[1] + parts[2]
        expected = gate_ref(logits.bfloat16() if is_rounded else logits, GateSpec(top_k=8))
        weights, ids = run(functions, parts, GateSpec(top_k=8), is_rounded=is_rounded)
        assert torch.equal(ids, expected[1])
        assert torch.allclose(weights, expected[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("num_experts", "num_groups", "is_served"), [(256, 8, True), (160, 8, False), (60, 1, True), (1024, 1, False)]
)
def test_shapes_that_lanes_do_not_divide_are_left_to_triton(functions, num_experts, num_groups, is_served):
    assert bool(functions.proa_gate_serves(num_experts, num_groups)) == is_served


@pytest.fixture
def sm90_without_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The compilers that were looked for."""
    wanted: list[str] = []
    monkeypatch.setattr(gate_module, "arm_for", lambda *_: "native")
    monkeypatch.setattr(gate_native, "arch_of", lambda _: SM90)
    monkeypatch.setattr(native.shutil, "which", lambda name, **_: wanted.append(name))
    native.is_available.cache_clear()
    native.library.cache_clear()
    yield wanted
    native.is_available.cache_clear()


def test_triton_chooses_where_no_compiler_is(sm90_without_compiler: list[str]):
    logits = torch.randn(3, 32, generator=torch.Generator().manual_seed(7))
    weights, ids = gate_module.gate(logits, GateSpec(top_k=4))
    expected = gate_ref(logits, GateSpec(top_k=4))
    assert torch.equal(ids, expected[1])
    assert torch.allclose(weights, expected[0])
    assert set(sm90_without_compiler) == {"nvcc"}


def test_the_reason_is_said_once(sm90_without_compiler: list[str], caplog: pytest.LogCaptureFixture):
    native._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not any(native.is_available(text, SM90) for text in ("gate", "align", "gate"))
    (record,) = caplog.records
    assert record.__dict__["reason"].startswith("no nvcc on PATH")


@pytest.mark.parametrize("code", [0, 35])
def test_what_the_driver_cannot_launch_is_not_available(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """35 is what CUDA answers where the driver is older than the toolkit."""
    monkeypatch.setenv("PROA_KERNELS_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_command", lambda _: ["g++", "-x", "c++", "-fPIC", "-shared"])
    monkeypatch.setattr(native, "text_of", lambda _: f'extern "C" int proa_runtime_error() {{ return {code}; }}')
    native.library.cache_clear()
    if code == 0:
        assert native.library("gate", SM90).proa_runtime_error() == 0
    else:
        with pytest.raises(native.NativeUnavailable, match="does not work with this driver"):
            native.library("gate", SM90)
    native.library.cache_clear()


def test_both_texts_ask_their_runtime(functions):
    assert functions.proa_runtime_error() == 0
    assert "proa_runtime_error" in text_of("align")


PLANTED = {
    "close scores are not looked at again": ("if (!NARROW && is_unsure)", "if (false)"),
    "the first of the rest is not looked at": ("p.top_k) + !NARROW", "p.top_k)"),
    "ties take higher ids": ("| (rest_of_first - i)", "| (first + i)"),
    "groups by their best alone": ("p.is_top2 ?", "false ?"),
    "heads stay": ("is_taken = key[0] == best", "is_taken = key[0] == best && lane % 2"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_checks_catch(fault: str, tmp_path: Path, emulate):
    assert TEXT.count(PLANTED[fault][0]) == 1
    functions = emulate(tmp_path / "build", 32, TEXT.replace(*PLANTED[fault]))
    logits = torch.randn(8, 256, generator=torch.Generator().manual_seed(6))
    logits[0, 50:57] = torch.arange(7) + 10.0
    logits[0, 20:22] = 9.0 + 9.0 * torch.finfo(torch.float32).eps * torch.tensor([0, 1])
    logits[1, :8] = 30.0
    spec, bias = replace(GROUPED, top_groups=1), torch.zeros(256)
    plain = agrees(functions, logits, GateSpec(top_k=8)) and agrees(functions, logits.bfloat16(), GateSpec(top_k=8))
    assert not (plain and agrees(functions, logits[2:], spec, bias))
