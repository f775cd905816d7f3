"""Where KV blocks live, as bytes. Host pools sit in a file of /dev/shm so that a peer on this host can map them."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from proa_workers.kv.layout import BlockRun, KvLayout

SHM_ROOT = Path("/dev/shm")
SHM_PREFIX = "proa-kv-"


class KvMemory(Protocol):
    """Bytes of a block pool. Every call moves whole blocks; ranges are checked by the caller's lease."""

    @property
    def layout(self) -> KvLayout: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def shm_name(self) -> str | None:
        """File under /dev/shm that holds the pool; None when it lives on a device."""

    def read_run(self, run: BlockRun) -> memoryview:
        """Bytes of `run`: a live view of a host pool, a copy of a device pool."""

    def write_run(self, run: BlockRun, source: memoryview) -> None:
        """Copy `source` (run.num_blocks * block_bytes bytes) into the pool."""

    def close(self) -> None: ...


class HostKvMemory:
    """Block pool in shared host memory; the file disappears with `close` or, after a crash, at the next start."""

    def __init__(self, layout: KvLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        remove_stale_segments()
        self.shm_name: str | None = f"{SHM_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        self._path = SHM_ROOT / self.shm_name
        fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(fd, 0, layout.block_bytes * num_blocks)
            self.buffer = mmap.mmap(fd, layout.block_bytes * num_blocks)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(fd)
        self._view = memoryview(self.buffer)

    def read_run(self, run: BlockRun) -> memoryview:
        return self._view[run.start * self.layout.block_bytes : (run.start + run.num_blocks) * self.layout.block_bytes]

    def write_run(self, run: BlockRun, source: memoryview) -> None:
        self.read_run(run)[:] = source

    def close(self) -> None:
        with suppress(FileNotFoundError):
            self._path.unlink()


def remove_stale_segments() -> None:
    """Delete pools of processes that no longer exist (killed before `close`)."""
    for path in SHM_ROOT.glob(f"{SHM_PREFIX}*-*"):
        pid = path.name.removeprefix(SHM_PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with suppress(FileNotFoundError, PermissionError):
                path.unlink()
