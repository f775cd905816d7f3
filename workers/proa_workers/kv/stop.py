"""Ends a move that runs in other threads: at its deadline, on a failure elsewhere, or when it is cancelled."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from proa_workers.errors import TransferFailed, WorkerError


class StopSignal:
    """Shared by the threads of one move. `deadline` is in seconds of time.monotonic."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.cause: WorkerError | None = None
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()

    def stop(self, cause: WorkerError) -> None:
        """Make every `check` raise `cause` and every watched socket fail at once; the first cause stays."""
        with self._lock:
            self.cause = self.cause or cause
            sockets = list(self._sockets)
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def check(self) -> float:
        """Seconds left; raises the cause when stopped, TransferFailed past the deadline."""
        if self.cause:
            raise self.cause
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TransferFailed("the move of KV blocks ran past its deadline")
        return left

    @contextmanager
    def watching(self, sock: socket.socket) -> Iterator[None]:
        """Shut `sock` down when the move is stopped."""
        with self._lock:
            self._sockets.add(sock)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)
