"""Launch code of the grouped products: grid, blocks, and tensor descriptors where the GPU has them."""

from __future__ import annotations

from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from proa_kernels.arch import SCALE_GROUP, Arch, GemmBlocks, arch_of, ceil_div, next_power_of_2
from proa_kernels.moe_gemm_triton import combine_kernel, gemm1_kernel, gemm2_kernel
from proa_kernels.tables import gemm_blocks, key_of
from proa_kernels.tables_file import layer_on

COMBINE_COLS, MIN_COMBINE_COLS = 2048, 256


def launch_gemm1(
    x: torch.Tensor, w13: torch.Tensor, rows: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor,
    out: torch.Tensor, block_rows: int, per_token: int,
    x_scale: torch.Tensor | None = None, w_scale: torch.Tensor | None = None,
    blocks: GemmBlocks | None = None, tma: bool | None = None,
) -> None:  # fmt: skip
    """Write `out` [R, I]; `blocks` and `tma` override the table. ValueError for blocks that cross blocks of scales."""
    arch = arch_of(x.device)
    if blocks is None and x_scale is not None and w_scale is not None and _is_sm90(arch, x, w13, w_scale, block_rows):
        from proa_kernels import moe_gemm_sm90  # other GPUs need no Gluon

        moe_gemm_sm90.launch_gemm1_sm90(x, w13, rows, expert, totals, out, per_token, x_scale, w_scale, arch.num_cus)
        return
    width, depth = w13.shape[1] // 2, w13.shape[2]
    blocks = blocks or _blocks(arch, x, w_scale, block_rows, (w13.shape[0], depth, width))[0]
    has_tma = _has_tma(arch, w13, tma)
    gemm1_kernel[(expert.numel() * ceil_div(width, blocks.cols),)](
        x, _weights(w13, blocks, has_tma), x if x_scale is None else x_scale, x if w_scale is None else w_scale,
        out, rows, expert, totals, x.shape[0] * per_token, per_token, depth, width,
        **_constants(arch, blocks, depth, x_scale, w_scale, has_tma),
    )  # fmt: skip


def launch_gemm2(
    h: torch.Tensor, w2: torch.Tensor, expert: torch.Tensor, totals: torch.Tensor, out: torch.Tensor, block_rows: int,
    h_scale: torch.Tensor | None = None, w_scale: torch.Tensor | None = None,
    blocks: GemmBlocks | None = None, tma: bool | None = None,
) -> None:  # fmt: skip
    """Write `out` [R, H]; else as `launch_gemm1`."""
    arch = arch_of(h.device)
    if blocks is None and h_scale is not None and w_scale is not None and _is_sm90(arch, h, w2, w_scale, block_rows):
        from proa_kernels import moe_gemm_sm90  # other GPUs need no Gluon

        moe_gemm_sm90.launch_gemm2_sm90(h, w2, expert, totals, out, h_scale, w_scale, arch.num_cus)
        return
    width, depth = w2.shape[1:]
    blocks = blocks or _blocks(arch, h, w_scale, block_rows, (w2.shape[0], width, depth))[1]
    has_tma = _has_tma(arch, w2, tma)
    activations = TensorDescriptor.from_tensor(h, [blocks.rows, blocks.depth]) if has_tma else h
    gemm2_kernel[(expert.numel() * ceil_div(width, blocks.cols),)](
        activations, _weights(w2, blocks, has_tma), h if h_scale is None else h_scale,
        h if w_scale is None else w_scale, out, expert, totals, depth, width,
        **_constants(arch, blocks, depth, h_scale, w_scale, has_tma),
    )  # fmt: skip


def launch_combine(rows: torch.Tensor, weights: torch.Tensor, inverse: torch.Tensor, out: torch.Tensor) -> None:
    """Write `out` [T, H]."""
    num_tokens, hidden = out.shape
    if num_tokens == 0:
        return
    cols = combine_cols(num_tokens, hidden, arch_of(out.device))
    combine_kernel[(num_tokens, ceil_div(hidden, cols))](
        rows, weights, inverse, out, hidden, PER_TOKEN=weights.shape[1], COLS=cols, num_warps=max(1, cols // 512)
    )


def combine_cols(num_tokens: int, hidden: int, arch: Arch) -> int:
    """Columns of one program: fewer while programs are too few to fill the GPU."""
    cols = min(COMBINE_COLS, next_power_of_2(hidden))
    while cols > MIN_COMBINE_COLS and num_tokens * ceil_div(hidden, cols) < 2 * arch.num_cus:
        cols //= 2
    return cols


def _blocks(
    arch: Arch, x: torch.Tensor, w_scale: torch.Tensor | None, rows: int, sizes: tuple[int, int, int]
) -> tuple[GemmBlocks, GemmBlocks]:
    """As measured on this GPU for `sizes` (experts, hidden, width), else the table of arch.py."""
    layer = layer_on(x.device, key_of(x.dtype, w_scale, *sizes))
    return gemm_blocks(layer, arch, rows, has_scale_blocks=_has_scale_blocks(w_scale))


def _is_sm90(arch: Arch, x: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, block_rows: int) -> bool:
    if arch.name != "sm90":
        return False
    from proa_kernels import moe_gemm_sm90

    return moe_gemm_sm90.suits(x, w, w_scale, block_rows)


def _has_scale_blocks(w_scale: torch.Tensor | None) -> bool:
    return w_scale is not None and w_scale.dim() == 3


def _has_tma(arch: Arch, weights: torch.Tensor, wanted: bool | None) -> bool:
    """TMA wants row pitches that are multiples of 16 bytes."""
    is_able = weights.shape[2] * weights.element_size() % 16 == 0
    return is_able and (arch.name == "sm90" if wanted is None else wanted)


def _weights(weights: torch.Tensor, blocks: GemmBlocks, has_tma: bool) -> torch.Tensor | TensorDescriptor:
    flat = weights.view(-1, weights.shape[2])
    return TensorDescriptor.from_tensor(flat, [blocks.cols, blocks.depth]) if has_tma else flat


def _constants(
    arch: Arch,
    blocks: GemmBlocks,
    depth: int,
    x_scale: torch.Tensor | None,
    w_scale: torch.Tensor | None,
    has_tma: bool,
) -> dict[str, Any]:
    if _has_scale_blocks(w_scale) and (SCALE_GROUP % blocks.cols or SCALE_GROUP % blocks.depth):
        raise ValueError(f"a tile of {blocks.cols} x {blocks.depth} weights crosses a block of {SCALE_GROUP} scales")
    return {
        "ROWS": blocks.rows,
        "COLS": blocks.cols,
        "DEPTH": blocks.depth,
        "GROUP": blocks.group,
        "NUM_XCDS": arch.num_xcds,
        "SCALES": 1 if x_scale is not None else 2 if w_scale is not None else 0,
        "ROWWISE": w_scale is not None and w_scale.dim() == 2,
        "EVEN": depth % blocks.depth == 0,
        "TMA": has_tma,
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
    }
