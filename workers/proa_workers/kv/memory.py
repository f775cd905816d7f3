"""Where KV blocks live, as bytes. Host pools sit in a file of /dev/shm so that a peer on this host can map them."""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from proa_workers.errors import SettingsError
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
        """File under /dev/shm that holds the pool and then one probe block; None when the pool lives on a device."""

    def read_run(self, run: BlockRun) -> memoryview:
        """Bytes of `run`: a live, writable view of a host pool (`shm_name` is set), a copy of a device pool."""

    def write_run(self, run: BlockRun, source: memoryview) -> None:
        """Copy `source` (run.num_blocks * block_bytes bytes) into the pool."""

    def close(self) -> None: ...


class HostKvMemory:
    """Block pool in shared host memory; the file disappears with `close` or, after a crash, at the next start.

    The block after the last one holds `probe_pattern`, which a peer reads to try the path. Raises SettingsError when
    the pool does not fit.
    """

    def __init__(self, layout: KvLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        remove_stale_segments()
        self.shm_name: str | None = f"{SHM_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        self._path = SHM_ROOT / self.shm_name
        num_bytes = layout.block_bytes * (num_blocks + 1)
        self._fd = os.open(SHM_ROOT, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            os.posix_fallocate(self._fd, 0, num_bytes)
            self.buffer = mmap.mmap(self._fd, num_bytes)
            publish(self._fd, self._path)
        except OSError as error:
            os.close(self._fd)
            advice = "lower --num-kv-blocks or --kv-cache-memory, or enlarge /dev/shm"
            raise pool_too_large(layout, num_blocks, f"in /dev/shm ({error.strerror}): {advice}") from None
        self._view = memoryview(self.buffer)
        self.write_run(BlockRun(num_blocks, 1), memoryview(probe_pattern(layout.block_bytes)))

    def read_run(self, run: BlockRun) -> memoryview:
        return self._view[run.start * self.layout.block_bytes : (run.start + run.num_blocks) * self.layout.block_bytes]

    def write_run(self, run: BlockRun, source: memoryview) -> None:
        self.read_run(run)[:] = source

    def close(self) -> None:
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def pool_too_large(layout: KvLayout, num_blocks: int, advice: str) -> SettingsError:
    """What to raise when the memory for a pool cannot be had; `advice` says where, and what to do."""
    return SettingsError(f"a KV pool of {num_blocks * layout.block_bytes >> 20} MiB does not fit {advice}")


def publish(fd: int, path: Path) -> None:
    """Give a nameless file its name, now that it is locked and full-sized: nobody ever sees it otherwise."""
    # NOTE: only with a directory fd does os.link call linkat, which follows the link below /proc.
    os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)


def probe_pattern(num_bytes: int) -> bytes:
    """Bytes that both sides of a probe know: 0, 7, 14, ... modulo 251, a prime, so that no shifted copy is equal."""
    period = bytes(7 * i % 251 for i in range(251))
    return (period * (num_bytes // len(period) + 1))[:num_bytes]


def remove_stale_segments() -> None:
    """Delete pools whose process is gone (killed before `close`): nobody holds their lock.

    Locks and not process ids, since pods that share /dev/shm do not see each other's processes.
    """
    for path in SHM_ROOT.glob(f"{SHM_PREFIX}*-*"):
        with suppress(FileNotFoundError, PermissionError, BlockingIOError):
            fd = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(fd)
