"""Mixture of experts: gate, routed experts, shared experts; and the plain gated MLP.

Legend: T tokens, M hidden, E experts, A experts per token, I expert width, F = 2I (gate rows, then up rows),
N = T * A token-expert pairs, S shared experts. With few tokens shared experts are experts that the gate gives to every
token with weight 1: they ride in the launches of the routed ones. With many they are dense products of their own: as
riders they would fill many small tiles, each of which reads their weights again.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from proa_kernels.gate import GateSpec, gate_ref
from proa_kernels.gate_route import route
from proa_kernels.quant import silu_mul

from proa_workers.errors import SettingsError
from proa_workers.model.arms import Arms
from proa_workers.model.config import ModelConfig, MoeConfig
from proa_workers.model.experts import EXPERTS, ExpertWeights, swiglu
from proa_workers.model.source import WeightSource

MIXTRAL_NAMES = ("block_sparse_moe", "w1", "w3", "w2")
QWEN_NAMES = ("mlp", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Mlp:
    w13_FM: torch.Tensor
    w2_MI: torch.Tensor

    @classmethod
    def load(cls, source: WeightSource, prefix: str, hidden: int, width: int) -> Mlp:
        gate, up = (source.take(f"{prefix}.{name}_proj.weight", (width, hidden)) for name in ("gate", "up"))
        return cls(torch.cat([gate, up]), source.take(f"{prefix}.down_proj.weight", (hidden, width)))

    def forward(self, x_TM: torch.Tensor, arms: Arms) -> torch.Tensor:
        return F.linear(swiglu(F.linear(x_TM, self.w13_FM)), self.w2_MI)


@dataclass(frozen=True, slots=True)
class Gate:
    weight_EM: torch.Tensor
    bias_E: torch.Tensor | None
    moe: MoeConfig

    def route(self, x_TM: torch.Tensor, arms: Arms, has_shared: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights float32 [T, A] and expert ids int32 [T, A], best first, then shared ones; two launches if fused."""
        spec = gate_spec(self.moe, has_shared)
        if arms.gate == "fused":
            return route(x_TM, self.weight_EM, spec, self.bias_E)
        logits_TE = F.linear(x_TM.to(self.weight_EM.dtype), self.weight_EM)
        return gate_ref(logits_TE, spec, self.bias_E)


def gate_spec(moe: MoeConfig, has_shared: bool = True) -> GateSpec:
    """How the gate chooses, in the kernels' terms; `has_shared` appends the shared experts to every token's choice."""
    return GateSpec(
        top_k=moe.top_k,
        score=moe.score,
        renormalize=moe.renormalize,
        scale=moe.scale,
        num_groups=moe.num_groups,
        top_groups=moe.top_groups,
        group_score=moe.group_score,
        num_shared=moe.num_shared_experts if has_shared else 0,
    )


def check_gate(arms: Arms, dtype: torch.dtype, device: torch.device) -> None:
    """Run the gate arm on one and on many tokens whose logits are exact; SettingsError if it fails or is wrong."""
    moe = MoeConfig(num_experts=8, top_k=2, intermediate_size=64, score="softmax", renormalize=True)
    advice = f"gate {arms.gate} on {device.type} with torch {torch.__version__}"
    for num_tokens, router_dtype in itertools.product((1, 40), (dtype, torch.float32)):
        weight_EM = torch.eye(8, 64, dtype=router_dtype, device=device)
        x_TM = (torch.arange(num_tokens * 64, device=device).view(-1, 64) * 5 % 61).to(dtype) / 8
        try:
            weights_TA, ids_TA = Gate(weight_EM, None, moe).route(x_TM, arms)
        except (RuntimeError, AttributeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(f"{advice}: does not run ({reason}); install torch 2.11 or newer") from None
        expected_TA, best_TA = gate_ref(x_TM[:, :8], gate_spec(moe))
        if not torch.equal(ids_TA, best_TA) or not torch.allclose(weights_TA, expected_TA, atol=1e-3):
            raise SettingsError(f"{advice}: wrong; install torch 2.11 or newer, or run on a CPU (device cpu)")


@dataclass(frozen=True, slots=True)
class SharedExperts:
    """Views of the stacked weights."""

    w13_SFM: torch.Tensor
    w2_SMI: torch.Tensor

    def add_to(self, out_TM: torch.Tensor, x_TM: torch.Tensor) -> torch.Tensor:
        """Add what they make of `x_TM` to `out_TM`, in place."""
        num_shared, _, width = self.w2_SMI.shape
        gate_up = F.linear(x_TM, self.w13_SFM.flatten(0, 1)).view(-1, 2 * width)
        hidden_TSI = silu_mul(gate_up).view(-1, num_shared, width)
        for s in range(num_shared):
            out_TM.addmm_(hidden_TSI[:, s], self.w2_SMI[s].T)
        return out_TM


@dataclass(frozen=True, slots=True)
class MoeLayer:
    """`experts` are the `routed` ones, then the `shared` ones (None: the model has none)."""

    gate: Gate
    experts: ExpertWeights
    routed: ExpertWeights
    shared: SharedExperts | None

    @classmethod
    def load(cls, config: ModelConfig, source: WeightSource, layer_prefix: str) -> MoeLayer:
        """Reads router, experts and shared experts under `layer_prefix`, named as in Mixtral or as in Qwen."""
        moe, hidden = config.moe, config.hidden_size
        assert moe is not None
        block, *names = MIXTRAL_NAMES if moe.naming == "mixtral" else QWEN_NAMES
        prefix = f"{layer_prefix}.{block}"
        router_dtype = torch.float32 if moe.has_float32_router else None
        bias_name = f"{prefix}.gate.e_score_correction_bias"
        gate = Gate(
            source.take(f"{prefix}.gate.weight", (moe.num_experts, hidden), router_dtype),
            source.take(bias_name, (moe.num_experts,), torch.float32) if moe.has_bias else None,
            moe,
        )
        experts = _load_experts(moe, source, prefix, names, hidden)
        if not moe.num_shared_experts:
            return cls(gate, experts, experts, None)
        w13, w2, cut = experts.w13_EFM, experts.w2_EMI, moe.num_experts
        return cls(gate, experts, ExpertWeights(w13[:cut], w2[:cut]), SharedExperts(w13[cut:], w2[cut:]))

    def forward(self, x_TM: torch.Tensor, arms: Arms) -> torch.Tensor:
        run = EXPERTS[arms.for_tokens(x_TM.shape[0])]
        if self.shared is None or not arms.has_dense_shared(x_TM.shape[0]):
            return run(x_TM, *self.gate.route(x_TM, arms), self.experts)
        return self.shared.add_to(run(x_TM, *self.gate.route(x_TM, arms, has_shared=False), self.routed), x_TM)


def _load_experts(moe: MoeConfig, source: WeightSource, prefix: str, names: list[str], hidden: int) -> ExpertWeights:
    """Stack the checkpoint's one-tensor-per-expert weights, then its shared experts."""
    width, (gate, up, down) = moe.intermediate_size, names
    num_stacked = moe.num_experts + moe.num_shared_experts
    w13_EFM = torch.empty(num_stacked, 2 * width, hidden, dtype=source.dtype, device=source.device)
    w2_EMI = torch.empty(num_stacked, hidden, width, dtype=source.dtype, device=source.device)
    for e in range(moe.num_experts):
        w13_EFM[e, :width] = source.take(f"{prefix}.experts.{e}.{gate}.weight", (width, hidden))
        w13_EFM[e, width:] = source.take(f"{prefix}.experts.{e}.{up}.weight", (width, hidden))
        w2_EMI[e] = source.take(f"{prefix}.experts.{e}.{down}.weight", (hidden, width))
    if moe.num_shared_experts:
        _load_shared(w13_EFM[moe.num_experts :], w2_EMI[moe.num_experts :], source, f"{prefix}.shared_experts")
    return ExpertWeights(w13_EFM, w2_EMI)


def _load_shared(w13_SFM: torch.Tensor, w2_SMI: torch.Tensor, source: WeightSource, prefix: str) -> None:
    """The checkpoint has all shared experts as one wide one: its columns are theirs one after the other."""
    num_shared, hidden, width = w2_SMI.shape
    gate, up = (source.take(f"{prefix}.{name}_proj.weight", (num_shared * width, hidden)) for name in ("gate", "up"))
    w13_SFM[:, :width] = gate.view(num_shared, width, hidden)
    w13_SFM[:, width:] = up.view(num_shared, width, hidden)
    down = source.take(f"{prefix}.down_proj.weight", (hidden, num_shared * width))
    w2_SMI.copy_(down.view(hidden, num_shared, width).transpose(0, 1))
