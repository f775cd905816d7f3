"""Block pools as tensors: over shared host memory, or in device memory with byte access through pinned host memory."""

from __future__ import annotations

import math

import torch

from proa_workers.kv.layout import BlockRun, KvLayout
from proa_workers.kv.memory import HostKvMemory, KvMemory, pool_too_large, probe_pattern

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class DeviceKvMemory:
    """KvMemory over a zeroed tensor `pool` [num_blocks, *layout.block_shape]; a probe block follows the last one.

    Copies run on the current stream, so that they come after the step that wrote the blocks; done on return.
    """

    shm_name: str | None = None

    def __init__(self, layout: KvLayout, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        all_blocks = torch.zeros(num_blocks + 1, *layout.block_shape, dtype=dtype, device=device)
        self.pool = all_blocks[:num_blocks]
        self._blocks = all_blocks.view(num_blocks + 1, -1).view(torch.uint8)
        self.write_run(BlockRun(num_blocks, 1), memoryview(probe_pattern(layout.block_bytes)))

    def read_run(self, run: BlockRun) -> memoryview:
        source = self._blocks[run.start : run.start + run.num_blocks]
        host = torch.empty(source.shape, dtype=torch.uint8, pin_memory=source.is_cuda)
        host.copy_(source)
        return host.view(-1).numpy().data

    def write_run(self, run: BlockRun, source: memoryview) -> None:
        target = self._blocks[run.start : run.start + run.num_blocks]
        host = torch.empty(target.shape, dtype=torch.uint8, pin_memory=target.is_cuda)
        host.view(-1).numpy().data[:] = source
        target.copy_(host)

    def close(self) -> None:
        """Nothing is left behind: the memory goes with the last reference."""


def allocate_pool(layout: KvLayout, num_blocks: int, device: torch.device) -> tuple[KvMemory, torch.Tensor]:
    """The pool as bytes and as a tensor [num_blocks, *block_shape] over the same memory; starts as zeros."""
    if device.type != "cpu":
        try:
            memory = DeviceKvMemory(layout, num_blocks, DTYPES[layout.dtype], device)
        except torch.OutOfMemoryError:
            advice = "lower --num-kv-blocks or --kv-cache-memory"
            raise pool_too_large(layout, num_blocks, f"on {device}: {advice}") from None
        return memory, memory.pool
    host = HostKvMemory(layout, num_blocks)
    pool = torch.frombuffer(host.buffer, dtype=DTYPES[layout.dtype], count=num_blocks * math.prod(layout.block_shape))
    return host, pool.view(num_blocks, *layout.block_shape)
