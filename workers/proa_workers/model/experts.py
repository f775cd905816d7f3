"""Routed experts: four implementations of one function, from obvious to fast.

Legend: as in moe.py; `weights_TA` float32 and `ids_TA` int32 come from the gate. Each returns
sum over a of weights[t, a] * w2[e] @ swiglu(w13[e] @ x[t]) with e = ids[t, a], as [T, M] in x's dtype. The sum runs in
a fixed order, so that equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from proa_kernels.moe_layer import fused_experts

from proa_workers.errors import SettingsError
from proa_workers.model.arms import ExpertsArm
from proa_workers.model.source import RandomWeights


class ExpertWeights:
    """Stacked weights `w13_EFM`, `w2_EMI`, and the views that the arms would otherwise make in every step."""

    __slots__ = ("edges_E", "per_expert", "w2_EIM", "w2_EMI", "w13_EFM", "w13_EMF")

    def __init__(self, w13_EFM: torch.Tensor, w2_EMI: torch.Tensor) -> None:
        self.w13_EFM, self.w2_EMI = w13_EFM, w2_EMI
        self.w13_EMF, self.w2_EIM = w13_EFM.transpose(1, 2), w2_EMI.transpose(1, 2)
        self.per_expert = list(zip(w13_EFM.unbind(0), w2_EMI.unbind(0), strict=True))
        self.edges_E = torch.arange(1, w13_EFM.shape[0] + 1, dtype=torch.int16, device=w13_EFM.device)


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu of the first half of the last dim, times the second half."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate).mul_(up)


def run_reference(
    x_TM: torch.Tensor, weights_TA: torch.Tensor, ids_TA: torch.Tensor, experts: ExpertWeights
) -> torch.Tensor:
    """Every expert on every token, kept where the token chose it."""
    out_TM = torch.zeros_like(x_TM, dtype=torch.float32)
    for e, (w13_FM, w2_MI) in enumerate(experts.per_expert):
        weight_T = (weights_TA * (ids_TA == e)).sum(1, keepdim=True)
        out_TM += weight_T * F.linear(swiglu(F.linear(x_TM, w13_FM)), w2_MI).float()
    return out_TM.to(x_TM.dtype)


def run_looped(
    x_TM: torch.Tensor, weights_TA: torch.Tensor, ids_TA: torch.Tensor, experts: ExpertWeights
) -> torch.Tensor:
    """Pair by pair: least work for a handful of pairs; reads the ids on the host, so it is for CPU tensors."""
    out_TM = torch.zeros_like(x_TM, dtype=torch.float32)
    rows = zip(torch.split(x_TM, 1), torch.split(out_TM, 1), weights_TA.tolist(), ids_TA.tolist(), strict=True)
    for x_1M, out_1M, weights, ids in rows:
        for weight, e in zip(weights, ids, strict=True):
            w13_FM, w2_MI = experts.per_expert[e]
            out_1M.add_(F.linear(swiglu(F.linear(x_1M, w13_FM)), w2_MI), alpha=weight)
    return out_TM.to(x_TM.dtype)


def run_grouped(
    x_TM: torch.Tensor, weights_TA: torch.Tensor, ids_TA: torch.Tensor, experts: ExpertWeights
) -> torch.Tensor:
    """Sort the pairs by expert, two grouped products, back to token order; no host synchronisation."""
    num_active = ids_TA.shape[1]
    # A radix sort passes over every key bit, so narrow keys sort four times faster on a GPU.
    sorted_N, order_N = ids_TA.flatten().to(torch.int16).sort(stable=True)
    ends_E = torch.searchsorted(sorted_N, experts.edges_E, out_int32=True)
    gathered_NM = x_TM.index_select(0, order_N // num_active)
    hidden_NI = swiglu(F.grouped_mm(gathered_NM, experts.w13_EMF, offs=ends_E))
    out_NM = F.grouped_mm(hidden_NI, experts.w2_EIM, offs=ends_E)
    pairs_NM = torch.empty_like(out_NM).index_copy_(0, order_N, out_NM)
    return torch.bmm(weights_TA.to(x_TM.dtype)[:, None], pairs_NM.view(-1, num_active, pairs_NM.shape[1]))[:, 0]


def run_fused(
    x_TM: torch.Tensor, weights_TA: torch.Tensor, ids_TA: torch.Tensor, experts: ExpertWeights
) -> torch.Tensor:
    """Kernels of proa_kernels: no gather, no host synchronisation; 16-bit types on a GPU."""
    return fused_experts(x_TM, weights_TA, ids_TA, experts.w13_EFM, experts.w2_EMI)


ExpertsFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, ExpertWeights], torch.Tensor]
EXPERTS: dict[ExpertsArm, ExpertsFunction] = {
    "reference": run_reference,
    "looped": run_looped,
    "grouped": run_grouped,
    "fused": run_fused,
}


REMEDIES: dict[ExpertsArm, str] = {"fused": "set experts grouped"}


def check_experts(arm: ExpertsArm, dtype: torch.dtype, device: torch.device) -> None:
    """Run `arm` on one and on many tokens beside the reference; SettingsError if it fails or differs."""
    source = RandomWeights(dtype=dtype, device=device)
    experts = ExpertWeights(source.take("w13", (8, 128, 64)), source.take("w2", (8, 64, 64)))
    for num_tokens in (1, 40):
        _check_tokens(arm, experts, source.take("x", (num_tokens, 64)) * 8)


def _check_tokens(arm: ExpertsArm, experts: ExpertWeights, x_TM: torch.Tensor) -> None:
    device = x_TM.device
    weights_TA = torch.full((x_TM.shape[0], 2), 0.5, device=device)
    ids_TA = torch.arange(2 * x_TM.shape[0], dtype=torch.int32, device=device).view(-1, 2) * 3 % 7
    advice = f"experts {arm} on {device.type} with torch {torch.__version__}"
    try:
        ours = EXPERTS[arm](x_TM, weights_TA, ids_TA, experts).float()
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        remedy = REMEDIES.get(arm, "install torch 2.11 or newer, or set experts looped")
        raise SettingsError(f"{advice}: does not run ({reason}); {remedy}") from None
    theirs = run_reference(x_TM, weights_TA, ids_TA, experts).float()
    error_norm = float((ours - theirs).norm() / theirs.norm())
    if not error_norm < (1e-4 if x_TM.dtype == torch.float32 else 2e-2):
        remedy = REMEDIES.get(arm, "install another torch, or set experts looped")
        raise SettingsError(f"{advice}: wrong by {error_norm:.1e}; {remedy}")
