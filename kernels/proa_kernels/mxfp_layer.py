"""The routed experts of a layer with microscaling weights, and how checkpoints store them. Legend as in mxfp_gemm.py.

The layer is silu(gate) * up without biases. gpt-oss stores its experts this way but computes another activation with
biases: `MxExperts.of_blocks` reads its layout, this layer does not compute its models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from proa_kernels.arch import ARMS, gpu_name, has_kernels_for, row_tile
from proa_kernels.moe_align import moe_align
from proa_kernels.moe_gemm import moe_combine
from proa_kernels.mxfp import ELEMENTS, GROUP, MxFormat, check_mx, format_of, quantize_mx
from proa_kernels.mxfp_gemm import moe_gemm1_mx, moe_gemm2_mx


@dataclass(frozen=True, slots=True, kw_only=True)
class MxExperts:
    """Elements `w13_EFH`, `w2_EHI` (two in a byte for mxfp4) and scale bytes [E, F, H / 32], [E, H, I / 32].

    ValueError for tensors that do not fit together.
    """

    w13: torch.Tensor
    w13_scale: torch.Tensor
    w2: torch.Tensor
    w2_scale: torch.Tensor

    def __post_init__(self) -> None:
        check_mx("w13", self.w13, self.w13_scale)
        check_mx("w2", self.w2, self.w2_scale)
        if self.w13.dim() != 3:
            raise ValueError(f"w13 must be [E, rows, columns], not {tuple(self.w13.shape)}")
        (num_experts, rows, hidden_groups), w2 = self.w13_scale.shape, self.w2_scale.shape
        if self.w13.dtype != self.w2.dtype or w2 != (num_experts, hidden_groups * GROUP, rows // 2 // GROUP):
            raise ValueError(
                f"w13 of {rows} rows and {hidden_groups * GROUP} columns does not fit w2 with scales {tuple(w2)}:"
                f" the width must be a multiple of {GROUP}, and both must have one format"
            )

    @classmethod
    def of_blocks(
        cls,
        gate_up_blocks: torch.Tensor,
        gate_up_scales: torch.Tensor,
        down_blocks: torch.Tensor,
        down_scales: torch.Tensor,
    ) -> MxExperts:
        """From mxfp4 as gpt-oss checkpoints keep it: `mlp.experts.gate_up_proj_blocks` [E, F, H / 32, 16] and `_scales`

        [E, F, H / 32] with gate and up rows in turns, `down_proj_blocks` [E, H, I / 32, 16] and `_scales`.
        """
        blocks = (gate_up_blocks, down_blocks)
        if any(b.dim() != 4 or b.shape[3] != GROUP // ELEMENTS["mxfp4"].per_byte for b in blocks):
            shapes = ", ".join(str(tuple(b.shape)) for b in blocks)
            raise ValueError(f"blocks must be [E, rows, columns / {GROUP}, 16] bytes, not {shapes}")
        return cls(
            w13=_halves(gate_up_blocks.flatten(2)),
            w13_scale=_halves(gate_up_scales),
            w2=down_blocks.flatten(2),
            w2_scale=down_scales,
        )


def _halves(rows_EFX: torch.Tensor) -> torch.Tensor:
    """Gate rows (even ones), then up rows."""
    return torch.cat((rows_EFX[:, ::2], rows_EFX[:, 1::2]), 1)


def mx_experts(
    x_TH: torch.Tensor,
    weights_TA: torch.Tensor,
    ids_TA: torch.Tensor,
    experts: MxExperts,
    activations: MxFormat | None = None,
) -> torch.Tensor:
    """[T, H] bfloat16 of bfloat16 `x_TH`; `ids_TA` int32 and `weights_TA` float32 as `gate` returns them.

    `activations` names the format that both products' inputs are rounded to; None keeps them in bfloat16. Only gfx950
    multiplies microscaling as it is, so elsewhere rounding activations costs accuracy and time. ValueError for a GPU
    without these kernels and for what does not fit together.
    """
    refuse_without_kernels(experts, x_TH.device)
    if ids_TA.dim() != 2 or weights_TA.shape != ids_TA.shape or x_TH.shape[0] != ids_TA.shape[0]:
        shapes = f"{tuple(x_TH.shape)}, {tuple(weights_TA.shape)} and {tuple(ids_TA.shape)}"
        raise ValueError(f"x [T, H], weights [T, A] and ids [T, A] must have the same tokens, not {shapes}")
    num_experts, per_token = experts.w13.shape[0], ids_TA.shape[1]
    rows = row_tile(ids_TA.numel(), num_experts)
    alignment = moe_align(ids_TA, num_experts, rows)
    x, x_scale = (x_TH, None) if activations is None else quantize_mx(x_TH, activations)
    h, h_scale = moe_gemm1_mx(
        x, experts.w13, experts.w13_scale, alignment, rows, per_token, x_scale=x_scale, out=activations
    )
    y_RH = moe_gemm2_mx(h, experts.w2, experts.w2_scale, alignment, rows, h_scale=h_scale)
    return moe_combine(y_RH, weights_TA, alignment)


def refuse_without_kernels(experts: MxExperts, device: torch.device) -> None:
    """ValueError that names the format, the GPU and the way out where `device` is a GPU that has no table here."""
    if device.type == "cuda" and not has_kernels_for(device):
        raise ValueError(
            f"no {format_of(experts.w13)} experts on GPU {gpu_name(device)}; they run on {', '.join(ARMS)}."
            " Turn the weights into bfloat16 once with dequantize_mx, and use fused_experts or torch"
        )
