"""Time to the first token of one worker over the last minutes, from totals that only grow."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 300.0
_STEP_SECONDS = 10.0


class RecentTtft:
    """Keeps a reading every 10 s; the oldest is the base that the newest is compared with."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, float, int]] = deque()

    def add(self, now: float, seconds_total: float, count: int) -> tuple[float, int]:
        """Mean in seconds and number of outputs since the base; totals that fell mean a restart, and start anew."""
        if self._readings and count < self._readings[-1][2]:
            self._readings.clear()
        if not self._readings or now - self._readings[-1][0] >= _STEP_SECONDS:
            self._readings.append((now, seconds_total, count))
        while len(self._readings) > 1 and now - self._readings[1][0] >= WINDOW_SECONDS:
            self._readings.popleft()
        _, base_seconds, base_count = self._readings[0]
        recent = count - base_count
        return ((seconds_total - base_seconds) / recent if recent else 0.0), recent
