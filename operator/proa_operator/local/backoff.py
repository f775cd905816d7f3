"""How long to wait before a process that ended is started again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Doubles from `first_seconds` to `cap_seconds`; jitter keeps workers that fell together from rising together."""

    first_seconds: float = 0.5
    cap_seconds: float = 30.0
    jitter: float = 0.2
    """Largest share that is added or taken away."""

    def seconds(self, num_failures: int, uniform: Callable[[float, float], float]) -> float:
        """Wait after `num_failures` (at least 1) ends in a row; `uniform(low, high)` draws the jitter."""
        doublings = min(num_failures - 1, 32)
        base = min(self.cap_seconds, self.first_seconds * 2.0**doublings)
        return min(self.cap_seconds, base * (1.0 + uniform(-self.jitter, self.jitter)))
