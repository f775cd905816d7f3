"""Processes by pid and birth, so that a reused pid is never killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BedError
from testbed.wait import until

STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`born` is the start time in clock ticks after boot, the 22nd field of /proc/PID/stat; 0 without one."""

    pid: int
    born: int

    @classmethod
    def of(cls, pid: int) -> Identity:
        """The process that has `pid` now."""
        return cls(pid=pid, born=_born(pid) or 0)

    def is_alive(self) -> bool:
        """Whether exactly this process still runs (a zombie does not)."""
        return _born(self.pid) == self.born


def stop(process: Identity, *, seconds: float = STOP_SECONDS) -> None:
    """TERM, then KILL after `seconds`; returns once the process is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not process.is_alive():
            return
        try:
            os.kill(process.pid, number)
            until(lambda: not process.is_alive(), seconds=seconds, what=f"pid {process.pid} to end", every=0.05)
        except (ProcessLookupError, BedError):
            continue


def running_with(word: str) -> list[Identity]:
    """Processes that have exactly `word` among their arguments."""
    found = []
    for arguments in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = arguments.read_text(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word in words:
            found.append(Identity.of(int(arguments.parent.name)))
    return found


def _born(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
