"""The gate by `gate.cu`, with the interface of `gate_triton.launch_gate`."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch

from proa_kernels.arch import arch_of
from proa_kernels.native import current_stream, is_available, library, pointer

if TYPE_CHECKING:
    from proa_kernels.gate import GateSpec

ALIGNMENT = 16  # bytes; a lane loads its experts at once


def serves_gate(logits: torch.Tensor, bias_E: torch.Tensor | None, spec: GateSpec) -> bool:
    """Whether the native arm takes this gate on this machine: float32 or bfloat16, groups that whole lanes share."""
    arch = arch_of(logits.device)
    tensors = [logits] if bias_E is None else [logits, bias_E]
    is_fitting = logits.dtype in (torch.float32, torch.bfloat16) and spec.top_k + spec.num_shared <= arch.wave_size
    if not is_fitting or any(tensor.data_ptr() % ALIGNMENT for tensor in tensors) or not is_available("gate", arch):
        return False
    return bool(library("gate", arch).proa_gate_serves(logits.shape[-1], spec.num_groups))


def launch_gate_native(
    logits: torch.Tensor,
    bias_E: torch.Tensor | None,
    weights_TA: torch.Tensor,
    ids_TA: torch.Tensor,
    spec: GateSpec,
    is_rounded: bool = False,
) -> None:
    """Fill `weights_TA` and `ids_TA` on the stream of the logits, see `serves_gate` and `launch_gate`."""
    num_tokens, num_experts = logits.shape[-2:]
    if num_tokens == 0:
        return
    error = library("gate", arch_of(logits.device)).proa_gate(
        pointer(logits), pointer(bias_E), pointer(weights_TA), pointer(ids_TA), num_tokens, num_experts,
        spec.top_k, spec.num_shared, spec.num_groups, spec.top_groups, logits.shape[0] if logits.dim() == 3 else 1,
        logits.dtype == torch.float32, spec.score == "softmax", spec.renormalize, is_rounded,
        spec.group_score == "top2", ctypes.c_float(spec.scale), current_stream(),
    )  # fmt: skip
    if error:
        raise RuntimeError(f"native gate could not be launched: error {error}")
