"""Modelled time against a clock: steps that follow each other keep the modelled rate, whatever a sleep overshoots."""

from __future__ import annotations

import time
from collections.abc import Callable

SLACK_SECONDS = 0.02  # a step that begins this soon after the last one was due continues from there, else from now


class Pace:
    """`begin` before the work of a step, `finish` after it; the pair takes seconds / speed, or longer work's time."""

    def __init__(
        self,
        speed: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        assert speed > 0, f"speed {speed}"
        self._speed, self._clock, self._sleep = speed, clock, sleep
        self._due = self._start = -float("inf")

    def begin(self) -> None:
        now = self._clock()
        self._start = self._due if 0 <= now - self._due < SLACK_SECONDS else now

    def finish(self, seconds: float) -> None:
        """Sleep until `seconds` of modelled time after the step's start."""
        self._due = self._start + seconds / self._speed
        rest = self._due - self._clock()
        if rest > 0:
            self._sleep(rest)
