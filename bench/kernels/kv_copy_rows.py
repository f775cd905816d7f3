"""KV block copies: checked bit for bit, and timed against the copy bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from proa_kernels.doctor_attention import copied_wrong
from proa_kernels.kv_copy import levels
from proa_kernels.kv_copy_triton import launch_kv_copy

from bench.kernels.decode_problem import BF16
from bench.kernels.measure import Ceilings, time_launches
from bench.kernels.rows import Row

MOVED_BYTES = 512 << 20


def pools() -> Iterator[tuple[str, torch.Tensor]]:
    """Views of pools of 1 GiB and more, named by the bytes of their runs."""
    gqa = torch.randn(350, 48, 2, 4, 32, 128, device="cuda").to(BF16)
    yield "whole blocks of 3 MiB", gqa
    yield "1 of 4 heads, runs of 8 KiB", gqa[:, :, :, 1:2]
    yield "tokens before heads, runs of 256 B", gqa.transpose(3, 4)
    latent = torch.randn(1100, 27, 32, 576, device="cuda").to(BF16)
    yield "1 layer of latents, runs of 36 KiB", latent[:, 5:6]
    yield "half a page of latents, runs of 18 KiB", latent[:, :, :16]
    yield "every second token, runs of 1152 B", latent[:, :, ::2]


def check() -> str:
    return next(filter(None, (copied_wrong(name, pool, num_blocks=50) for name, pool in pools())), "")


def kv_copy_rows(ceilings: Ceilings) -> Iterator[Row]:
    """KV copies of MOVED_BYTES in random order of blocks; the floor counts each byte once read and once written."""
    for name, pool in pools():
        for dtype in (BF16, torch.float32):
            block_bytes = pool[0].numel() * pool.element_size()
            count = min(pool.shape[0], max(1, MOVED_BYTES // block_bytes))
            orders = [torch.randperm(pool.shape[0], device="cuda")[:count] for _ in range(2)]
            packed = torch.randn(count, *pool.shape[1:], device="cuda").to(dtype)
            moved = packed.numel() * (pool.element_size() + packed.element_size())
            for kind in ("gather", "scatter"):
                launches = [
                    partial(launch_kv_copy, pool, levels(pool), blocks, packed, is_gather=kind == "gather")
                    for blocks in orders
                ]
                yield Row(
                    name=f"kv_{kind} {name}, {str(dtype)[6:]}",
                    timing=time_launches(launches, 0.02),
                    floor_us=moved / ceilings.copy_bytes * 1e6,
                )
