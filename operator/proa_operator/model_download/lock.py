"""One writer at a time in a folder that several nodes share. Needs exclusive creation of files, and no common clock.

The folder holds numbered files; the highest number is the holder. It writes a counter into its file at every beat. Who
waits takes over by creating the next number, which only one can, when the holder's file says `released` or has stood
still for `stale_seconds` of the waiter's own clock. The highest number is never deleted before there is a higher one,
so a late waiter cannot step in below it. A holder that could not beat for half of that time stops writing (`check`).
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from proa_operator.model_download.errors import GaveUp, LostLock
from proa_operator.model_download.stop import Stop

_log = logging.getLogger(__name__)
_RELEASED = b"released"
_GONE = (errno.ENOENT, errno.ESTALE)  # the latter on NFS, for a file that another node deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class LockTiming:
    """All in seconds. NFS may show a change of a file up to one second late, and its server may pause for some."""

    stale_seconds: float = 60.0
    wait_seconds: float = 6 * 3600.0

    @property
    def beat_seconds(self) -> float:
        return self.stale_seconds / 12


class FolderLock:
    """A context manager. GaveUp when others hold it for too long, Stopped when asked to end."""

    def __init__(
        self, folder: Path, timing: LockTiming, stop: Stop, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._timing = timing
        self._stop = stop
        self._clock = clock
        self._holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._seen: tuple[int, bytes] = (0, b"")
        self._seen_at = 0.0
        self._number = 0
        self._num_beats = 0
        self._beat_at = 0.0
        self._is_lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)

    def __enter__(self) -> FolderLock:
        deadline = self._clock() + self._timing.wait_seconds
        while not self._try():
            if self._clock() > deadline:
                raise GaveUp(f"another download has held {self._folder} for too long: see its log, or delete its pod")
            self._stop.pause(self._timing.beat_seconds)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(self._timing.stale_seconds)
        if not self._is_lost:
            # NOTE: whoever completes the model deletes the folder, also under a waiter that has just got the lock.
            with suppress(FileNotFoundError), self._path(self._number).open("r+b") as file:
                file.truncate(0)
                file.write(_RELEASED)

    def check(self) -> None:
        """LostLock when another may hold it by now. Cheap: it reads no file."""
        silent = self._clock() - self._beat_at
        if self._is_lost or silent > self._timing.stale_seconds / 2:
            self._is_lost = True
            raise LostLock(f"this download stood still for {silent:.0f} s and another may go on: stopped")

    def _try(self) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        top = self._top()
        return (top == 0 or self._is_free(top)) and self._claim(top + 1)

    def _is_free(self, number: int) -> bool:
        try:
            seen = (number, self._path(number).read_bytes())
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        if seen[1] == _RELEASED:
            return True
        if seen != self._seen:
            if number != self._seen[0]:
                _log.info("waiting for another download", extra={"holder": seen[1].decode(errors="replace")})
            self._seen, self._seen_at = seen, self._clock()
        is_stale = self._clock() - self._seen_at > self._timing.stale_seconds
        if is_stale:
            _log.warning("taking over from a download that is dead", extra={"holder": seen[1].decode(errors="replace")})
        return is_stale

    def _claim(self, number: int) -> bool:
        self._beat_at = self._clock()
        try:
            with self._path(number).open("xb") as file:
                file.write(f"held by {self._holder} 0".encode())
        except (FileExistsError, FileNotFoundError):
            return False
        if self._top() != number:
            self._path(number).unlink(missing_ok=True)
            return False
        for old in self._numbers():
            if old < number:
                self._path(old).unlink(missing_ok=True)
        self._number = number
        return True

    def _keep(self) -> None:
        while not self._is_lost and not self._end.wait(self._timing.beat_seconds):
            try:
                self.beat()
            except OSError as error:
                _log.warning("cannot write the lock", extra={"reason": str(error)})
                self._is_lost = self._is_lost or error.errno in _GONE

    def beat(self) -> None:
        """Shows others that the holder lives. OSError when the folder cannot be read or written."""
        now = self._clock()
        if self._top() != self._number or now - self._beat_at > self._timing.stale_seconds / 2:
            self._is_lost = True
            return
        self._num_beats += 1
        # NOTE: opened anew each time, for NFS shows a change to others when a file is closed and opened.
        with self._path(self._number).open("r+b") as file:
            file.write(f"held by {self._holder} {self._num_beats}".encode())
        self._beat_at = now

    def _numbers(self) -> list[int]:
        try:
            return [int(name) for name in os.listdir(self._folder) if name.isdigit()]
        except FileNotFoundError:
            return []

    def _top(self) -> int:
        return max(self._numbers(), default=0)

    def _path(self, number: int) -> Path:
        return self._folder / str(number)
