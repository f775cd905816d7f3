"""The wish to end, seen by every thread and every wait."""

from __future__ import annotations

import threading

from proa_operator.model_download.errors import Stopped


class Stop:
    """Set once, by a signal or by the first thread that failed."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Stopped if set."""
        if self._event.is_set():
            raise Stopped("stopped; the next run goes on from here")

    def pause(self, seconds: float) -> None:
        """Stopped if set meanwhile."""
        self._event.wait(seconds)
        self.check()
