"""How requests ended on this worker and how long they waited for their first token: what a rollout is judged by."""

from __future__ import annotations

from types import TracebackType

from proa_workers.errors import Draining, EngineFailed, Saturated, Unsupported, UserMistake

NO_FAULT = (UserMistake, Saturated, Draining, Unsupported)


class Tally:
    """Totals since the start. As a context manager around one request it counts that request's end."""

    def __init__(self) -> None:
        self.finished = 0
        self.failed = 0
        self.ttft_seconds = 0.0
        self.num_ttft = 0

    def add_ttft(self, seconds: float) -> None:
        """One output has its first token, or is ready to be handed off."""
        self.ttft_seconds += seconds
        self.num_ttft += 1

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_fault = error is not None and _is_fault(error)
        self.finished += error is None or is_fault
        self.failed += is_fault


def _is_fault(error: BaseException) -> bool:
    """Of this worker. A client that left ends a request by a BaseException that is no Exception."""
    return isinstance(error, EngineFailed) or (isinstance(error, Exception) and not isinstance(error, NO_FAULT))
