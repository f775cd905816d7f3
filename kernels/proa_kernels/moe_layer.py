"""The routed experts of a layer, by the arm that is fastest for so many pairs. Legend as in moe_gemm.py."""

from __future__ import annotations

import torch

from proa_kernels.arch import row_tile
from proa_kernels.moe_align import moe_align
from proa_kernels.moe_decode import MAX_DECODE_PAIRS, moe_decode
from proa_kernels.moe_gemm import moe_combine, moe_gemm1, moe_gemm2


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
    if ids_TA.numel() <= MAX_DECODE_PAIRS and (w13_scale is None or w13_scale.dim() == 3):
        return moe_decode(x_TH, weights_TA, ids_TA, w13_EFH, w2_EHI, w13_scale, w2_scale)
    rows = row_tile(ids_TA.numel(), w13_EFH.shape[0])
    alignment = moe_align(ids_TA, w13_EFH.shape[0], rows)
    h_RI = moe_gemm1(x_TH, w13_EFH, alignment, rows, ids_TA.shape[1], w_scale=w13_scale)
    return moe_combine(moe_gemm2(h_RI, w2_EHI, alignment, rows, w_scale=w2_scale), weights_TA, alignment)
