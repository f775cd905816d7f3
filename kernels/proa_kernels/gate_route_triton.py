"""The router's product with its depth split over programs. Legend as in gate_route.py."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# (arguments of device code are pointers, blocks or compile-time constants as the launch decides)

from __future__ import annotations

import torch
import triton
import triton.language as tl

from proa_kernels.arch import Arch, arch_of, ceil_div

NUM_SPLITS = 8
ROWS, COLS, DEPTH = 16, 16, 128


@triton.jit(do_not_specialize=["num_tokens"])
def router_kernel(
    x_ptr, w_ptr, parts_ptr, num_tokens, size_e, size_k, size_span,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, FLOAT32: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    expert = tl.program_id(1) * COLS + tl.arange(0, COLS)
    split = tl.program_id(2)
    x_row = tl.minimum(token, num_tokens - 1)[:, None] * size_k
    w_row = tl.minimum(expert, size_e - 1)[None, :] * size_k
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for depth in range(split * size_span, tl.minimum((split + 1) * size_span, size_k), DEPTH):
        k = depth + tl.arange(0, DEPTH)
        x = tl.load(x_ptr + x_row + k[None, :], mask=k[None, :] < size_k, other=0.0)
        w = tl.load(w_ptr + w_row + k[:, None], mask=k[:, None] < size_k, other=0.0)
        acc = tl.dot(x.to(tl.float32), w, acc, input_precision=PRECISION) if FLOAT32 else tl.dot(x, w, acc)
    where = (split * num_tokens + token[:, None]) * size_e + expert[None, :]
    tl.store(parts_ptr + where, acc, mask=(token < num_tokens)[:, None] & (expert < size_e)[None, :])


def launch_router(x_TH: torch.Tensor, w_EH: torch.Tensor, num_splits: int = NUM_SPLITS) -> torch.Tensor:
    """Parts float32 [Z, T, E] whose sum is x w^T; no rows, no launch."""
    num_tokens, hidden = x_TH.shape
    num_experts = w_EH.shape[0]
    parts = torch.empty(num_splits, num_tokens, num_experts, dtype=torch.float32, device=x_TH.device)
    if num_tokens:
        span = ceil_div(ceil_div(hidden, num_splits), DEPTH) * DEPTH
        router_kernel[(ceil_div(num_tokens, ROWS), ceil_div(num_experts, COLS), num_splits)](
            x_TH, w_EH, parts, num_tokens, num_experts, hidden, span,
            ROWS=ROWS, COLS=COLS, DEPTH=DEPTH, FLOAT32=w_EH.dtype == torch.float32,
            PRECISION=float32_precision(arch_of(x_TH.device)), num_warps=2,
        )  # fmt: skip
    return parts


def float32_precision(arch: Arch) -> str:
    """Three tf32 products on tensor cores are as exact as float32 here and do not slow down with the tokens."""
    return "tf32x3" if arch.name == "sm90" else "ieee"
