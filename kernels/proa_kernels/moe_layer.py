"""The routed experts of a layer, by the arm that is fastest for so many pairs. Legend as in moe_gemm.py."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch

from proa_kernels.aiter_arm import AiterExperts, why_not_aiter
from proa_kernels.arch import arch_of
from proa_kernels.moe_align import moe_align
from proa_kernels.moe_decode import MAX_DECODE_PAIRS, moe_decode
from proa_kernels.moe_gemm import moe_combine, moe_gemm1, moe_gemm2
from proa_kernels.tables import ExpertsArm, experts_arm, key_of, layer_plan
from proa_kernels.tables_file import layer_on

Experts = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
log = logging.getLogger(__name__)


def prepared_experts(
    w13_EFH: torch.Tensor,
    w2_EHI: torch.Tensor,
    *,
    w13_scale: torch.Tensor | None = None,
    w2_scale: torch.Tensor | None = None,
    arm: ExpertsArm | None = None,
) -> Experts:
    """The layer as a function of x [T, H], weights [T, A] and ids [T, A], with weights laid out for the arm that runs.

    `arm` None: AITER on ROCm where it is installed and takes these sizes, unless a measured table says otherwise; else
    the kernels here. ImportError or ValueError where `arm` is "aiter" and AITER is absent or does not take the sizes.
    """
    layer = layer_on(w2_EHI.device, key_of(torch.bfloat16, w2_scale, *w2_EHI.shape))
    arch = arch_of(w2_EHI.device)
    chosen = arm or experts_arm(arch, layer)
    if chosen == "aiter" and arm is None and (reason := why_not_aiter(arch, w13_EFH, w2_EHI)):
        _say_once(reason)
        chosen = "proa"
    if chosen == "aiter":
        return AiterExperts.prepare(w13_EFH, w2_EHI, w13_scale, w2_scale)
    return functools.partial(_own_experts, w13_EFH, w2_EHI, w13_scale, w2_scale)


@functools.cache
def _say_once(reason: str) -> None:
    log.warning("experts run on the kernels of proa, not on AITER", extra={"reason": reason})


def _own_experts(
    w13: torch.Tensor, w2: torch.Tensor, w13_scale: torch.Tensor | None, w2_scale: torch.Tensor | None,
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    return fused_experts(x, weights, ids, w13, w2, w13_scale=w13_scale, w2_scale=w2_scale)


def fused_experts(
    x_TH: torch.Tensor,
    weights_TA: torch.Tensor,
    ids_TA: torch.Tensor,
    w13_EFH: torch.Tensor,
    w2_EHI: torch.Tensor,
    *,
    w13_scale: torch.Tensor | None = None,
    w2_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """All of it for bfloat16 or float16 activations, as [T, H] in their dtype; fp8 weights want their scales.

    `ids_TA` int32 and `weights_TA` float32 as `gate` returns them. Raises ValueError for what does not fit together.
    """
    # Reading a table cannot be traced, and sizes may be symbols there: compiled code takes the tiles of arch.py.
    is_traced = torch.compiler.is_compiling()
    layer = None if is_traced else layer_on(x_TH.device, key_of(x_TH.dtype, w2_scale, *w2_EHI.shape))
    max_few = MAX_DECODE_PAIRS if w13_scale is None or w13_scale.dim() == 3 else -1
    rows = layer_plan(layer, ids_TA.numel(), w13_EFH.shape[0], max_few)
    if rows == 0:
        return moe_decode(x_TH, weights_TA, ids_TA, w13_EFH, w2_EHI, w13_scale, w2_scale)
    alignment = moe_align(ids_TA, w13_EFH.shape[0], rows)
    h_RI = moe_gemm1(x_TH, w13_EFH, alignment, rows, ids_TA.shape[1], w_scale=w13_scale)
    return moe_combine(moe_gemm2(h_RI, w2_EHI, alignment, rows, w_scale=w2_scale), weights_TA, alignment)
