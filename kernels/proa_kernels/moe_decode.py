"""Routed experts of a handful of pairs (N <= MAX_DECODE_PAIRS) in two launches, for decode steps of few sequences.

Legend as in moe_gemm.py: T tokens, H hidden, E experts, A experts per token, N = T * A pairs, I expert width.

    h_NI   = silu(w13_gate[e] x[t]) * (w13_up[e] x[t])      e = ids[t, a]; ids outside the experts add nothing
    out_TH = sum over a of weights[t, a] * w2[e] h[t, a]

Sums and `h` are float32. Weights are 16-bit as the activations, or fp8 with float32 scales of 128 x 128 blocks.
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for
from proa_kernels.moe_gemm import check_product, dequantized

MAX_DECODE_PAIRS = 32


def moe_decode(
    x_TH: torch.Tensor,
    weights_TA: torch.Tensor,
    ids_TA: torch.Tensor,
    w13_EFH: torch.Tensor,
    w2_EHI: torch.Tensor,
    w13_scale: torch.Tensor | None = None,
    w2_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """[T, H] in x's dtype. Right for any number of pairs, fast for few. Raises ValueError for what does not fit."""
    check_product(x_TH, w13_EFH, None, w13_scale)
    num_experts, double_width, hidden = w13_EFH.shape
    if double_width % 2 or tuple(w2_EHI.shape) != (num_experts, hidden, double_width // 2):
        raise ValueError(f"w2 {tuple(w2_EHI.shape)} does not fit w13 {tuple(w13_EFH.shape)}")
    check_product(x_TH.new_empty(0, double_width // 2), w2_EHI, None, w2_scale)
    if any(scale is not None and scale.dim() != 3 for scale in (w13_scale, w2_scale)):
        raise ValueError("few pairs want scales of 128 x 128 blocks; use the grouped products for scales of rows")
    for name, tensor, dtype in (("ids", ids_TA, torch.int32), ("weights", weights_TA, torch.float32)):
        is_table = tensor.dim() == 2 and tensor.shape[0] == x_TH.shape[0]
        if not is_table or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous {dtype} [T, A], not {tensor.dtype} {tuple(tensor.shape)}")
    if weights_TA.shape != ids_TA.shape:
        raise ValueError(f"weights {tuple(weights_TA.shape)} are not of the shape of the ids, {tuple(ids_TA.shape)}")
    out: torch.Tensor = torch.ops.proa.moe_decode(x_TH, weights_TA, ids_TA, w13_EFH, w2_EHI, w13_scale, w2_scale)
    return out


def decode_ref(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor,
    w13_scale: torch.Tensor | None = None, w2_scale: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Pair by pair in float32."""
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for t, row in enumerate(ids.tolist()):
        for a, e in enumerate(row):
            if 0 <= e < w13.shape[0]:
                gate, up = (_expert(w13, w13_scale, e) @ x[t].float()).chunk(2)
                out[t] += weights[t, a] * (_expert(w2, w2_scale, e) @ (torch.nn.functional.silu(gate) * up))
    return out.to(x.dtype)


def _expert(weights: torch.Tensor, scale: torch.Tensor | None, e: int) -> torch.Tensor:
    return dequantized(weights[e : e + 1], None if scale is None else scale[e : e + 1])[0]


@torch.library.custom_op(
    "proa::moe_decode",
    mutates_args=(),
    schema="(Tensor x, Tensor weights, Tensor ids, Tensor w13, Tensor w2, Tensor? w13_scale, Tensor? w2_scale)"
    " -> Tensor",
)
def _decode_op(
    x: torch.Tensor, weights: torch.Tensor, ids: torch.Tensor, w13: torch.Tensor, w2: torch.Tensor,
    w13_scale: torch.Tensor | None, w2_scale: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    if arm_for("moe_decode", x.device) == "reference":
        return decode_ref(x, weights, ids, w13, w2, w13_scale, w2_scale)
    from proa_kernels.moe_decode_triton import launch_decode_down, launch_decode_up  # the reference needs no Triton

    out = torch.empty_like(x)
    if out.numel():
        h = x.new_empty((ids.numel(), w2.shape[2]), dtype=torch.float32)
        launch_decode_up(x, ids, w13, w13_scale, h)
        launch_decode_down(h, weights, ids, w2, w2_scale, out)
    return out


@_decode_op.register_fake
def _decode_fake(x: torch.Tensor, *_: object) -> torch.Tensor:
    return torch.empty_like(x)
