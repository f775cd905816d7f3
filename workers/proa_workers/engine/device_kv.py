"""Block pool in device memory, read and written as bytes through pinned host memory."""

from __future__ import annotations

import torch

from proa_workers.kv.layout import BlockRun, KvLayout
from proa_workers.kv.memory import probe_pattern


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
        return memoryview(host.view(-1).numpy())

    def write_run(self, run: BlockRun, source: memoryview) -> None:
        target = self._blocks[run.start : run.start + run.num_blocks]
        host = torch.empty(target.shape, dtype=torch.uint8, pin_memory=target.is_cuda)
        memoryview(host.view(-1).numpy())[:] = source
        target.copy_(host)

    def close(self) -> None:
        """Nothing is left behind: the memory goes with the last reference."""
