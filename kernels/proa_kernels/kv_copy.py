"""KV blocks to and from a packed buffer, with a change of layout and dtype on the way.

Legend: X blocks of a pool, N of them in the packed buffer, ... the inner dims of a block.

    kv_gather    packed[n] = pool[blocks[n]]
    kv_scatter   pool[blocks[n]] = packed[n]

The packed side is contiguous. The pool side is any view whose last dim is contiguous and whose inner dims form at most
three levels of equally spaced runs: some heads of all layers, one layer, tokens before heads. A run is what both sides
hold in one piece; short runs cost bandwidth (below 1 KiB or so), not correctness.
"""

from __future__ import annotations

import torch

from proa_kernels.arch import arm_for

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
MAX_LEVELS = 3


def kv_gather(pool: torch.Tensor, blocks_N: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """[N, ...] contiguous in `dtype` (None: the pool's). `blocks_N` are valid integers on the pool's device.

    Raises ValueError for a dtype or a layout that is not served.
    """
    out_type = dtype or pool.dtype
    _check(pool, blocks_N, out_type)
    packed: torch.Tensor = torch.ops.proa.kv_gather(pool, blocks_N, out_type)
    return packed


def kv_scatter(packed: torch.Tensor, blocks_N: torch.Tensor, pool: torch.Tensor) -> None:
    """Write `packed` [N, ...] to `pool`; blocks must differ from each other. Raises ValueError as `kv_gather` does."""
    _check(pool, blocks_N, packed.dtype)
    if packed.shape != (blocks_N.shape[0], *pool.shape[1:]) or not packed.is_contiguous():
        raise ValueError(f"packed must be contiguous {(blocks_N.shape[0], *pool.shape[1:])}, not {tuple(packed.shape)}")
    torch.ops.proa.kv_scatter(packed, blocks_N, pool)


def _check(pool: torch.Tensor, blocks: torch.Tensor, dtype: torch.dtype) -> None:
    if pool.dtype != dtype and not {pool.dtype, dtype} <= set(FLOATS):
        raise ValueError(f"no cast between {pool.dtype} and {dtype}")
    if blocks.dim() != 1 or blocks.dtype not in (torch.int32, torch.int64) or not blocks.is_contiguous():
        raise ValueError(f"blocks must be contiguous integers [N], not {blocks.dtype} {tuple(blocks.shape)}")
    if pool.dim() < 2 or pool.stride(-1) != 1:
        raise ValueError(f"the last dim of the pool must be contiguous, not strided {pool.stride()}")
    if pool.numel() and len(levels(pool)) > MAX_LEVELS + 1:
        raise ValueError(f"pool strided {pool.stride()} has more than {MAX_LEVELS} levels; copy it in parts")


def levels(pool: torch.Tensor) -> list[tuple[int, int]]:
    """(size, stride) of a block's dims, outer first, with neighbours merged that are contiguous to each other."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(pool.shape[1:], pool.stride()[1:], strict=True):
        if size == 1 and merged:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    if len(merged) > 1 and merged[0][0] == 1:
        merged.pop(0)
    return merged if merged[-1][1] == 1 else [*merged, (1, 1)]


@torch.library.custom_op(
    "proa::kv_gather", mutates_args=(), schema="(Tensor pool, Tensor blocks, ScalarType dtype) -> Tensor"
)
def _gather_op(pool: torch.Tensor, blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if arm_for("kv_copy", pool.device) == "reference":
        gathered: torch.Tensor = pool[blocks.long()].to(dtype).contiguous()
        return gathered
    from proa_kernels.kv_copy_triton import launch_kv_copy  # the reference needs no Triton

    packed = _empty_packed(pool, blocks, dtype)
    launch_kv_copy(pool, levels(pool), blocks, packed, is_gather=True)
    return packed


@_gather_op.register_fake
def _gather_fake(pool: torch.Tensor, blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _empty_packed(pool, blocks, dtype)


def _empty_packed(pool: torch.Tensor, blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty((blocks.shape[0], *pool.shape[1:]), dtype=dtype, device=pool.device)


@torch.library.custom_op(
    "proa::kv_scatter", mutates_args=("pool",), schema="(Tensor packed, Tensor blocks, Tensor(a!) pool) -> ()"
)
def _scatter_op(packed: torch.Tensor, blocks: torch.Tensor, pool: torch.Tensor) -> None:
    if arm_for("kv_copy", pool.device) == "reference":
        pool[blocks.long()] = packed.to(pool.dtype)
        return
    from proa_kernels.kv_copy_triton import launch_kv_copy

    launch_kv_copy(pool, levels(pool), blocks, packed, is_gather=False)


@_scatter_op.register_fake
def _scatter_fake(*_: object) -> None:
    return None
