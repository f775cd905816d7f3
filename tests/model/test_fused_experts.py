"""The experts arm of proa_kernels on a CPU, where its ops compute their references."""

from __future__ import annotations

import pytest
import torch
from proa_workers.errors import SettingsError
from proa_workers.model.experts import EXPERTS, ExpertWeights, check_experts, run_fused, run_reference

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_start_check_passes(dtype: torch.dtype) -> None:
    check_experts("fused", dtype, CPU)


@pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(0, 4, 2), (1, 4, 2), (7, 16, 4), (33, 3, 1)])
def test_equals_reference(num_tokens: int, num_experts: int, top_k: int) -> None:
    experts = ExpertWeights(
        (torch.randn(num_experts, 48, 32) * 0.1).bfloat16(), (torch.randn(num_experts, 32, 24) * 0.1).bfloat16()
    )
    x_TM, weights_TA = torch.randn(num_tokens, 32).bfloat16(), torch.rand(num_tokens, top_k)
    ids_TA = torch.rand(num_tokens, num_experts).topk(top_k).indices.to(torch.int32)
    ours, theirs = (run(x_TM, weights_TA, ids_TA, experts).float() for run in (run_fused, run_reference))
    assert float((ours - theirs).norm()) <= 2e-2 * float(theirs.norm())


def test_float32_is_refused_with_the_fix() -> None:
    with pytest.raises(
        SettingsError, match=r"experts fused on cpu .*no product of torch\.float32.*set experts grouped"
    ):
        check_experts("fused", torch.float32, CPU)


@pytest.mark.parametrize("num_tokens", [1, 40])
def test_start_check_sees_a_fault_in_either_path(num_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and many tokens run different kernels."""

    def faulty(x_TM, weights_TA, ids_TA, experts):  # type: ignore[no-untyped-def]
        out_TM = run_fused(x_TM, weights_TA, ids_TA, experts)
        return out_TM * 1.1 if x_TM.shape[0] == num_tokens else out_TM

    monkeypatch.setitem(EXPERTS, "fused", faulty)
    with pytest.raises(SettingsError, match=r"wrong by .*; set experts grouped"):
        check_experts("fused", torch.bfloat16, CPU)
