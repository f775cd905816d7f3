"""Which service is planned next: deduplicated, one at a time each, spaced, with backoff after failures. No clock."""

from __future__ import annotations

import heapq
import random
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds."""

    spacing: float = 0.05
    """Between two starts of one key: what happens meanwhile is one run."""
    spacing_failed: float = 2.0
    """The same, after a failure: its own effects are often the next event."""
    backoff_first: float = 0.2
    """After the first failure; doubles each time."""
    backoff_most: float = 60.0
    """The backoff never grows beyond this."""
    jitter: float = 0.25
    """Share of the backoff that is random, so that what failed together is not retried together."""


class Backlog(Generic[K]):
    """Times are seconds on one clock that the caller reads."""

    def __init__(self, pace: Pace | None = None, dice: random.Random | None = None) -> None:
        self._pace = pace or Pace()
        self._dice = dice or random.Random()
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._number = 0
        self._running: dict[K, float] = {}
        self._started: dict[K, float] = {}
        self._failures: dict[K, int] = {}

    def add(self, key: K, now: float) -> None:
        """At once, or when the spacing since its last start has passed. Shortens a backoff, but not to nothing."""
        started = self._started.get(key)
        if started is None:
            self.add_at(key, now)
            return
        failures = self._failures.get(key, 0)
        spacing = min(self._backoff(failures), self._pace.spacing_failed) if failures else self._pace.spacing
        self.add_at(key, max(now, started + spacing))

    def add_at(self, key: K, when: float) -> None:
        """Not before `when`; an earlier time that is known stays."""
        if key in self._due and self._due[key] <= when:
            return
        self._due[key] = when
        self._push(key, when)

    def pop(self, now: float) -> tuple[K, float] | None:
        """A key that is due and not running, and since when; the longest due first. It runs until `finish`."""
        blocked: list[K] = []
        found: tuple[K, float] | None = None
        while self._heap and self._heap[0][0] <= now and found is None:
            when, _, key = heapq.heappop(self._heap)
            if self._due.get(key) != when:
                continue
            if key in self._running:
                blocked.append(key)
            else:
                found = (key, when)
        for key in blocked:
            self._push(key, self._due[key])
        if found is not None:
            del self._due[found[0]]
            self._running[found[0]] = self._started[found[0]] = now
        return found

    def finish(self, key: K, now: float, *, is_failed: bool) -> None:
        """The run has ended; a failed one comes again after a backoff, unless something asks for it earlier."""
        del self._running[key]
        if not is_failed:
            self._failures.pop(key, None)
            return
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.add_at(key, now + self._backoff(failures) * (1 - self._pace.jitter * self._dice.random()))

    def forget(self, key: K) -> None:
        """The key is of no interest any more."""
        self._due.pop(key, None)
        self._failures.pop(key, None)
        self._started.pop(key, None)

    def next_due(self) -> float | None:
        """When a key that does not run is next due."""
        blocked: list[tuple[float, int, K]] = []
        while self._heap:
            when, _, key = self._heap[0]
            if self._due.get(key) == when and key not in self._running:
                break
            entry = heapq.heappop(self._heap)
            if self._due.get(key) == when:
                blocked.append(entry)
        found = self._heap[0][0] if self._heap else None
        for entry in blocked:
            heapq.heappush(self._heap, entry)
        return found

    def depth(self, now: float) -> int:
        """Keys that are due."""
        return sum(1 for when in self._due.values() if when <= now)

    def age(self, now: float) -> float:
        """How long the most delayed key has been due, or has run."""
        waiting = [when for key, when in self._due.items() if key not in self._running]
        return max(0.0, now - min([now, *waiting, *self._running.values()]))

    def _backoff(self, failures: int) -> float:
        return min(self._pace.backoff_first * 2.0 ** min(failures - 1, 30), self._pace.backoff_most)

    def _push(self, key: K, when: float) -> None:
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, key))
