"""Router and gate of few tokens in the interpreter, in float16: its bfloat16 is wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from proa_kernels import gate_route
from proa_kernels.gate import GateSpec, gate_ref
from proa_kernels.gate_route import MAX_SPLIT_TOKENS, route
from proa_kernels.gate_route_triton import launch_router
from proa_kernels.gate_triton import GatePlan, launch_gate
from proa_kernels.testing import is_poison, poison_, relative_error, tolerance

SPEC = GateSpec(top_k=3, num_shared=1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# tokens, experts, hidden: less than a tile, ragged, a depth that some splits never reach
@pytest.mark.parametrize(("tokens", "num_experts", "hidden"), [(0, 4, 32), (1, 5, 40), (17, 33, 300), (3, 16, 1040)])
@pytest.mark.parametrize("w_dtype", [torch.float16, torch.float32])
def test_parts_sum_to_the_product(tokens: int, num_experts: int, hidden: int, w_dtype: torch.dtype):
    x, w = random(tokens, hidden).half(), random(num_experts, hidden, seed=1).to(w_dtype)
    parts = launch_router(x, w, num_splits=4)
    assert parts.shape == (4, tokens, num_experts)
    assert relative_error(parts.sum(0), F.linear(x.float(), w.float())) < tolerance(torch.float32, depth=hidden)


@pytest.mark.parametrize("is_rounded", [False, True])
def test_gate_sums_and_rounds_parts(is_rounded: bool):
    parts = random(3, 5, 20, seed=2)
    logits = parts.sum(0)
    if is_rounded:
        logits = (logits.view(torch.int32) & -65536).view(torch.float32)  # the interpreter cuts where a GPU rounds
    weights, ids = torch.empty(5, 4), torch.empty(5, 4, dtype=torch.int32)
    poison_(ids)
    launch_gate(parts, None, weights, ids, SPEC, GatePlan(rows=2, num_warps=1), is_rounded)
    weights_ref, ids_ref = gate_ref(logits, SPEC)
    assert not is_poison(ids).any()
    assert torch.equal(ids, ids_ref)
    assert torch.allclose(weights, weights_ref, rtol=1e-5)
    parts[1] += random(5, 20, seed=3)
    launch_gate(parts, None, weights, ids, SPEC, GatePlan(rows=2, num_warps=1), is_rounded)
    assert not torch.equal(ids, ids_ref)


@pytest.mark.parametrize("tokens", [1, MAX_SPLIT_TOKENS + 1])
@pytest.mark.parametrize("w_dtype", [torch.bfloat16, torch.float32])
def test_route_is_the_gate_of_the_product(tokens: int, w_dtype: torch.dtype):
    x, w = random(tokens, 24).bfloat16(), random(9, 24, seed=1).to(w_dtype)
    weights, ids = route(x, w, SPEC)
    expected = gate_ref(F.linear(x.to(w_dtype), w), SPEC)
    assert torch.equal(ids, expected[1])
    assert torch.equal(weights, expected[0])


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.float16])
def test_activations_of_another_dtype_than_a_bfloat16_router_never_reach_the_kernel(
    x_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gate_route, "arm_for", lambda *_: "triton")
    x, w = random(3, 24).to(x_dtype), random(9, 24, seed=1).bfloat16()
    weights, ids = route(x, w, SPEC)
    expected = gate_ref(F.linear(x.bfloat16(), w), SPEC)
    assert torch.equal(ids, expected[1])
    assert torch.equal(weights, expected[0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="does not fit"):
        route(torch.zeros(2, 8), torch.zeros(4, 9), SPEC)
    with pytest.raises(ValueError, match="top_k 3 of 2"):
        route(torch.zeros(2, 8), torch.zeros(2, 8), SPEC)


def test_op_has_a_fake_version_with_the_same_shapes():
    arguments = (random(3, 16), random(8, 16), None, 3, "softmax", True, 1.0, 1, 1, "max", 1)
    torch.library.opcheck(torch.ops.proa.route.default, arguments, test_utils=("test_schema", "test_faketensor"))
