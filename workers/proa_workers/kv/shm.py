"""Transport between workers of one host: map the peer's pool under /dev/shm read-only and copy out of it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from proa_workers.core.lease import Transfer
from proa_workers.errors import IncompatiblePeer
from proa_workers.kv.memory import SHM_PREFIX, SHM_ROOT
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.transport import Chunk


def host_id() -> str:
    """Equal in two processes exactly when they see the same /dev/shm: boot id and device number of that mount."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id}/{SHM_ROOT.stat().st_dev}"


class ShmTransport:
    """Copies run without the interpreter lock. What a late reader copies of reused blocks fails at Commit."""

    name = "shm"

    def __init__(self, shm_name: str, *, block_bytes: int, num_blocks: int, num_streams: int) -> None:
        self.num_streams = num_streams
        self._block_bytes = block_bytes
        self._pool = np.frombuffer(map_pool(shm_name, block_bytes * (num_blocks + 1)), np.uint8)
        self._num_blocks = num_blocks

    def read(self, transfer: Transfer, chunks: Sequence[Chunk], stop: StopSignal) -> Iterator[Chunk]:
        for chunk in chunks:
            stop.check()
            start = chunk.source.start * self._block_bytes
            np.copyto(np.frombuffer(chunk.view(), np.uint8), self._pool[start : start + chunk.num_bytes])
            yield chunk

    def read_probe(self, stop: StopSignal) -> bytes:
        return self._pool[self._num_blocks * self._block_bytes :].tobytes()

    def close(self) -> None:
        # NOTE: a copy that still runs keeps its own reference; the mapping ends with the last one.
        self._pool = self._pool[:0].copy()


def map_pool(shm_name: str, num_bytes: int) -> mmap.mmap:
    """Map a peer's pool; raises IncompatiblePeer when it is not there, not ours to read, or of another size."""
    if not shm_name.startswith(SHM_PREFIX) or "/" in shm_name:
        raise IncompatiblePeer(f"peer names {shm_name!r} as its KV pool, which is not a name of ours")
    try:
        fd = os.open(SHM_ROOT / shm_name, os.O_RDONLY)
    except OSError as error:
        raise IncompatiblePeer(f"cannot map the peer's KV pool {shm_name}: {error.strerror}; use tcp") from error
    try:
        if os.fstat(fd).st_size != num_bytes:
            raise IncompatiblePeer(f"the peer's KV pool {shm_name} is not of {num_bytes} bytes; use tcp")
        return mmap.mmap(fd, num_bytes, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
