"""Attempts with a bound: only those without any gain count."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from proa_operator.local.backoff import Backoff
from proa_operator.model_download.errors import AttemptFailed, GaveUp
from proa_operator.model_download.stop import Stop

T = TypeVar("T")
_log = logging.getLogger(__name__)
_MAX_WISH_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """`num_attempts` in a row without a byte more than ever before."""

    num_attempts: int
    backoff: Backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Runs attempts until one succeeds."""

    patience: Patience
    stop: Stop

    def run(self, attempt: Callable[[], T], gained: Callable[[], int] = lambda: 0) -> T:
        """`gained()` in bytes. GaveUp when attempts fail without a gain, Stopped, and what `attempt` raises else."""
        most, num_failures = gained(), 0
        while True:
            self.stop.check()
            try:
                return attempt()
            except AttemptFailed as error:
                num_failures = 1 if gained() > most else num_failures + 1
                most = max(most, gained())
                if num_failures >= self.patience.num_attempts:
                    raise GaveUp(f"{error}; gave up after {num_failures} attempts, the next run goes on") from None
                self._wait(error, num_failures)

    def _wait(self, error: AttemptFailed, num_failures: int) -> None:
        own = self.patience.backoff.seconds(num_failures, random.uniform)
        seconds = max(own, min(error.after_seconds, _MAX_WISH_SECONDS))
        values = {"reason": str(error), "failures": num_failures, "waits": round(seconds, 2)}
        _log.warning("attempt failed", extra=values)
        self.stop.pause(seconds)
