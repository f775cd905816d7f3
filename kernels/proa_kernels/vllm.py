"""vLLM's unquantised experts on the kernels of this package, registered out of tree.

    from proa_kernels.vllm import register
    register()          # before a model is built, in every process: a vLLM plugin does it

vLLM's official hook replaces the class that owns a layer's experts (`CustomOp.register_oot`); the replacement gives
vLLM's modular kernel other experts, so that its dispatch and combine between GPUs stay. Layers that these kernels do
not take (biases, other activations than silu, batched experts, 32-bit weights) keep what vLLM chose. Follows vLLM
0.32.0: `layers/fused_moe/unquantized_fused_moe_method.py` and `modular_kernel.py`.
"""

# mypy: disable-error-code="import-not-found,misc,no-any-return"
# (vLLM is no dependency: its classes have no types here)

from __future__ import annotations

import logging
from typing import Any

import torch
import vllm.model_executor.layers.fused_moe.modular_kernel as mk
from vllm.model_executor.custom_op import op_registry_oot
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.topk_weight_and_reduce import TopKWeightAndReduceNoOP
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

from proa_kernels.arch import has_kernels_for
from proa_kernels.moe_gemm import HALVES
from proa_kernels.moe_layer import fused_experts

Shape = tuple[int, ...]
log = logging.getLogger(__name__)
HOOK = UnquantizedFusedMoEMethod.__name__


def register(*, on_cpu: bool = False) -> None:
    """Use `ProaExperts` in every model built from now on; a second call changes nothing.

    `on_cpu`: also where there is no GPU, with the references in plain torch: right and slow, for tests. RuntimeError
    where another package has replaced the same class.
    """
    ProaExperts.runs_on_cpu = on_cpu
    present = op_registry_oot.get(HOOK)
    if present is None:
        UnquantizedFusedMoEMethod.register_oot(ProaMoEMethod)
    elif present is not ProaMoEMethod:
        raise RuntimeError(f"{present.__module__} replaced vLLM's {HOOK} already: leave out one of the two plugins")


class ProaExperts(mk.FusedMoEExpertsModular):
    """Experts of vLLM's modular kernel: tokens [M, K], ids [M, top-k]; weights w1 [E, 2I, K] and w2 [E, K, I]."""

    runs_on_cpu = False

    @staticmethod
    def activation_format() -> mk.FusedMoEActivationFormat:
        return mk.FusedMoEActivationFormat.Standard

    @staticmethod
    def _supports_current_device() -> bool:
        if torch.cuda.is_available():
            return has_kernels_for(torch.device("cuda"))
        return ProaExperts.runs_on_cpu

    @staticmethod
    def _supports_no_act_and_mul() -> bool:
        return False

    @staticmethod
    def _supports_activation(activation: MoEActivation) -> bool:
        return activation == MoEActivation.SILU

    @staticmethod
    def _supports_quant_scheme(weight_key: object, activation_key: object) -> bool:
        return weight_key is None and activation_key is None

    @staticmethod
    def _supports_parallel_config(_: object) -> bool:
        return True

    @staticmethod
    def _supports_batch_invariance() -> bool:
        return False  # the number of tokens chooses between two kernels with other orders of summation

    def supports_expert_map(self) -> bool:
        return True

    def finalize_weight_and_reduce_impl(self) -> Any:
        """`apply` has weighed and summed already."""
        return TopKWeightAndReduceNoOP()

    def workspace_shapes(self, M: int, N: int, K: int, *_: object) -> tuple[Shape, Shape, Shape]:
        """No workspace of vLLM's; the output is [M, K]."""
        return (0,), (0,), (M, K)

    def apply(
        self, output: torch.Tensor, hidden_states: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor,
        topk_weights: torch.Tensor, topk_ids: torch.Tensor, activation: object, global_num_experts: int,
        expert_map: torch.Tensor | None, a1q_scale: torch.Tensor | None, a2_scale: torch.Tensor | None,
        workspace13: torch.Tensor, workspace2: torch.Tensor, expert_tokens_meta: object,
        apply_router_weight_on_input: bool,
    ) -> None:  # fmt: skip
        """Fill `output`. `expert_map` gives the local expert of each id, -1 for those of other GPUs."""
        ids = topk_ids if expert_map is None else expert_map[topk_ids.long()]
        weights = torch.ones_like(topk_weights) if apply_router_weight_on_input else topk_weights
        output.copy_(fused_experts(hidden_states, weights.float().contiguous(), ids.int().contiguous(), w1, w2))


class ProaMoEMethod(UnquantizedFusedMoEMethod):
    """vLLM's owner of unquantised experts, with `ProaExperts` where they take the layer."""

    def __init__(self, moe: Any) -> None:
        super().__init__(moe)
        reason = why_not(moe)
        if reason:
            log.warning("a layer's experts stay with vLLM", extra={"reason": reason})
            return
        # Of vLLM's layouts this one is the checkpoint's: others would shuffle, prepack or swap the weights.
        self.unquantized_backend = UnquantizedMoeBackend.TRITON
        self.experts_cls = ProaExperts

    def _maybe_pad_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """On ROCm vLLM pads rows to spread them over channels; the view it keeps is not contiguous, ours must be."""
        return weight if self.experts_cls is ProaExperts else super()._maybe_pad_weight(weight)


def why_not(moe: Any) -> str:
    """Empty where `ProaExperts` take a layer with vLLM's settings `moe`."""
    if moe.in_dtype not in HALVES:
        return f"experts of {moe.in_dtype}; the kernels take 16-bit types"
    if moe.has_bias:
        return "experts with biases"
    is_batched = moe.moe_parallel_config.use_batched_activation_format
    wanted = mk.FusedMoEActivationFormat.BatchedExperts if is_batched else mk.FusedMoEActivationFormat.Standard
    is_taken, reason = ProaExperts.is_supported_config(ProaExperts, moe, None, None, wanted)
    return "" if is_taken else str(reason)
