"""Requests to a gateway's Service, one after the other on several threads, until they are told to stop."""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

from proa_operator.cli.ask import ask
from proa_operator.errors import ServeError

END_SECONDS = 60.0


class GatewayLoad:
    """A context manager. `answered` counts answers, `failures` says what went wrong with the others."""

    def __init__(self, url: str, model: str, *, clients: int = 2, pause_seconds: float = 0.1) -> None:
        """Each client opens a connection for each of its requests, as `curl` does, and streams the answer."""
        self._url, self._model, self._pause_seconds = url, model, pause_seconds
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, daemon=True) for _ in range(clients)]
        self.answered = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(END_SECONDS)
            assert not thread.is_alive(), f"a request has not ended within {END_SECONDS:g} s"

    def _ask_on(self) -> None:
        while not self._stop.wait(self._pause_seconds):
            asked_at = time.strftime("%H:%M:%S")
            try:
                asyncio.run(ask(self._url, self._model, "What is a proa?", lambda text: None))
            except ServeError as error:
                self.failures.append(f"{asked_at} {error}")
            else:
                self.answered += 1
