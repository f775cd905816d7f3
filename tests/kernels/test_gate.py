"""The gate in the interpreter against its reference, and the reference against torch.topk."""

from __future__ import annotations

import math

import pytest
import torch
from proa_kernels.arch import GFX942, GFX950, SM90, Arch
from proa_kernels.gate import GateSpec, gate, gate_ref
from proa_kernels.gate_triton import GatePlan, gate_plan, launch_gate
from proa_kernels.testing import Guarded, tolerance

CPU = torch.device("cpu")
GROUPED = GateSpec(top_k=4, score="sigmoid", num_groups=4, top_groups=2, group_score="top2", scale=2.5)
# spec, experts, has a bias, dtype
SPECS = [
    (GateSpec(top_k=1), 1, False, torch.float32),
    (GateSpec(top_k=6, renormalize=False), 64, False, torch.float32),
    (GateSpec(top_k=8), 100, False, torch.bfloat16),
    (GateSpec(top_k=3, scale=1.5), 65, False, torch.float16),
    (GateSpec(top_k=8, score="sigmoid"), 32, True, torch.bfloat16),
    (GateSpec(top_k=4, score="softmax"), 16, True, torch.float32),
    (GateSpec(top_k=4, num_groups=4, top_groups=2, renormalize=False), 16, False, torch.float32),
    (GROUPED, 32, True, torch.float32),
    (GateSpec(top_k=3, num_shared=2, scale=2.0), 12, False, torch.float32),
    (GateSpec(top_k=6, num_groups=3, top_groups=2, renormalize=False, scale=16.0), 60, False, torch.float32),
    (GateSpec(top_k=2, score="sigmoid", num_groups=3, top_groups=2, group_score="top2"), 15, True, torch.bfloat16),
    (GateSpec(top_k=8, score="sigmoid", num_groups=8, top_groups=4, group_score="top2"), 256, True, torch.float32),
]


def run(logits: torch.Tensor, spec: GateSpec, bias: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (logits.shape[0], spec.top_k + spec.num_shared)
    guards = Guarded.empty(shape, torch.float32, CPU), Guarded.empty(shape, torch.int32, CPU)
    launch_gate(logits, bias, guards[0].tensor, guards[1].tensor, spec, GatePlan(rows=2, num_warps=1))
    assert all(guard.is_intact() for guard in guards)
    return guards[0].tensor, guards[1].tensor


def agrees(logits: torch.Tensor, spec: GateSpec, bias: torch.Tensor | None = None) -> bool:
    (weights, ids), (weights_ref, ids_ref) = run(logits, spec, bias), gate_ref(logits, spec, bias)
    bound = 8 * tolerance(torch.float32, num_roundings=4)
    return torch.equal(ids, ids_ref) and torch.allclose(weights, weights_ref, rtol=bound, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(("spec", "num_experts", "has_bias", "dtype"), SPECS)
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_random_logits(spec: GateSpec, num_experts: int, has_bias: bool, dtype: torch.dtype, tokens: int):
    torch.manual_seed(tokens)
    logits = torch.randn(tokens, num_experts).to(dtype)
    assert agrees(logits, spec, torch.randn(num_experts) if has_bias else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_take_the_lowest_ids(dtype: torch.dtype):
    logits = torch.zeros(2, 16, dtype=dtype)
    logits[1, ::2] = -0.0
    logits[1, 9] = 1.0
    weights, ids = run(logits, GateSpec(top_k=4))
    assert ids.tolist() == [[0, 1, 2, 3], [9, 0, 1, 2]]
    assert torch.allclose(weights[0], torch.full((4,), 0.25))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, on which the interpreter stands, tells of each NaN
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_ids_stay_valid_for_odd_logits(value: float, dtype: torch.dtype):
    for logits in (torch.full((1, 16), value, dtype=dtype), torch.zeros(1, 16, dtype=dtype)):
        logits[0, 5] = value
        ids = run(logits, GateSpec(top_k=4))[1][0].tolist()
        assert len(set(ids)) == 4
        assert set(ids) <= set(range(16))
        if value != -math.inf and not logits.isnan().all() and not logits.isinf().all():
            assert ids[0] == 5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_zero_scores_renormalise_to_zero():
    logits = torch.full((1, 8), -200.0)
    assert run(logits, GateSpec(top_k=2, score="sigmoid"))[0].tolist() == [[0.0, 0.0]]


def test_reference_chooses_what_topk_chooses():
    logits = torch.randn(9, 64, generator=torch.Generator().manual_seed(1))
    weights, ids = gate_ref(logits, GateSpec(top_k=8))
    chosen = logits.topk(8)
    assert torch.equal(ids.long(), chosen.indices)
    assert torch.allclose(weights, chosen.values.softmax(-1))


def test_reference_keeps_to_the_best_groups():
    logits = torch.randn(7, 32, generator=torch.Generator().manual_seed(2))
    _, ids = gate_ref(logits, GROUPED)
    best = logits.sigmoid().view(7, 4, 8).topk(2).values.sum(-1).topk(2).indices
    for token in range(7):
        assert set((ids[token] // 8).tolist()) <= set(best[token].tolist())


def test_checker_catches_a_swapped_choice():
    logits = torch.randn(3, 16, generator=torch.Generator().manual_seed(3))
    assert agrees(logits, GateSpec(top_k=2))
    assert not torch.equal(run(logits, GateSpec(top_k=2))[1], gate_ref(-logits, GateSpec(top_k=2))[1])


@pytest.mark.parametrize(
    ("logits", "spec", "bias", "message"),
    [
        (torch.zeros(2, 8, dtype=torch.int32), GateSpec(top_k=2), None, "floats"),
        (torch.zeros(2, 8), GateSpec(top_k=9), None, "top_k 9 of 8"),
        (torch.zeros(2, 8), GateSpec(top_k=2), torch.zeros(4), "bias"),
        (torch.zeros(2, 8), GateSpec(top_k=2), torch.zeros(16)[::2], "bias must be contiguous"),
        (torch.zeros(2, 12), GateSpec(top_k=2, num_groups=5), None, "do not make 5 groups"),
        (torch.zeros(2, 16), GateSpec(top_k=8, num_groups=4), None, "cannot hold"),
    ],
)
def test_bad_input_is_named(logits: torch.Tensor, spec: GateSpec, bias: torch.Tensor | None, message: str):
    with pytest.raises(ValueError, match=message):
        gate(logits, spec, bias)


@pytest.mark.parametrize(("num_tokens", "is_narrow", "rows"), [(1, True, 1), (9000, True, 4), (9000, False, 1)])
@pytest.mark.parametrize("arch", [SM90, GFX942, GFX950], ids=lambda arch: arch.name)
def test_plan_fills_the_gpu_before_it_stacks_tokens(num_tokens: int, is_narrow: bool, rows: int, arch: Arch):
    assert gate_plan(num_tokens, is_narrow, arch) == GatePlan(rows=rows, num_warps=1)


def test_op_has_a_fake_version_with_the_same_shapes():
    arguments = (torch.randn(3, 32), torch.randn(32), 4, "sigmoid", True, 2.5, 4, 2, "top2", 1)
    torch.library.opcheck(torch.ops.proa.gate.default, arguments, test_utils=("test_schema", "test_faketensor"))
