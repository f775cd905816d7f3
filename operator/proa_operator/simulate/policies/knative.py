"""KPA and APA of AIBrix (v0.7, pkg/controller/podautoscaler), as its source has them.

KPA wants ceil(value / target) groups as Knative does, where Knative's value is the total; AIBrix stores the mean over
pods, so the answer does not know how many groups there are. Both readings are built: `is_mean` is the published code.
"""

from __future__ import annotations

from collections import deque
from math import ceil, floor

from proa_operator.simulate.observe import Observation, PoolView
from proa_operator.simulate.policies.policy import Targets

STABLE_SECONDS, PANIC_SECONDS = 180.0, 60.0
TOLERANCE = 0.1
MAX_UP, MAX_DOWN = 2.0, 2.0
PREFILL_TARGET = 1.5
"""Requests in a prefill group, queued or running."""
DECODE_TARGET_SHARE = 0.7
"""Of a full batch."""


class _Window:
    """Values of the last seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._values: deque[tuple[float, float]] = deque()

    def mean(self, now: float, value: float) -> float:
        self._values.append((now, value))
        while self._values[0][0] <= now - self._seconds:
            self._values.popleft()
        return sum(value for _, value in self._values) / len(self._values)


class _Kpa:
    """One pool."""

    def __init__(self, target: float, *, is_mean: bool) -> None:
        self._target, self._is_mean = target, is_mean
        self._stable, self._panic = _Window(STABLE_SECONDS), _Window(PANIC_SECONDS)
        self._most_in_panic = 0

    def wanted(self, now: float, pool: PoolView) -> int:
        ready = max(1, pool.ready)
        total = pool.running + pool.waiting
        value = total / ready if self._is_mean else total
        stable, panic = self._stable.mean(now, value), self._panic.mean(now, value)
        capacity = self._target if self._is_mean else self._target * ready
        if abs(stable / capacity - 1) <= TOLERANCE:
            return pool.target
        is_panic = stable <= 0 or panic / stable > 2.0 or panic / capacity > 2.0
        wanted = ceil((panic if is_panic else stable) / self._target)
        wanted = min(max(wanted, floor(ready / MAX_DOWN), 1), ceil(ready * MAX_UP))
        if self._is_mean:
            return wanted  # the memory of a panic is lost at each reconcile
        self._most_in_panic = max(self._most_in_panic, wanted) if is_panic else 0
        return max(wanted, self._most_in_panic)


class Kpa:
    """Both pools on concurrency."""

    period_seconds = 10.0
    window_seconds = 10.0

    def __init__(self, best_batch: int, *, is_mean: bool) -> None:
        self.name = "KPA (AIBrix)" if is_mean else "KPA (Knative)"
        self._prefill = _Kpa(PREFILL_TARGET, is_mean=is_mean)
        self._decode = _Kpa(DECODE_TARGET_SHARE * best_batch, is_mean=is_mean)

    def decide(self, observation: Observation) -> Targets:
        now = observation.now
        return Targets(
            prefill=self._prefill.wanted(now, observation.prefill),
            decode=self._decode.wanted(now, observation.decode),
        )


class Apa:
    """Proportional on concurrency: up to twice at once, half when low; cooldowns of 0 s up and 300 s down.

    The cooldown takes the least recommendation of its window when it shrinks: published so, the reverse of the HPA.
    """

    name = "APA (AIBrix)"
    period_seconds = 10.0
    window_seconds = 10.0
    COOL_DOWN_SECONDS = 300.0

    def __init__(self, best_batch: int) -> None:
        self._targets = (PREFILL_TARGET, DECODE_TARGET_SHARE * best_batch)
        self._recent: tuple[deque[tuple[float, int]], ...] = (deque(), deque())

    def decide(self, observation: Observation) -> Targets:
        pools = (observation.prefill, observation.decode)
        prefill, decode = (
            self._pool(observation.now, pool, target, recent)
            for pool, target, recent in zip(pools, self._targets, self._recent, strict=True)
        )
        return Targets(prefill=prefill, decode=decode)

    def _pool(self, now: float, pool: PoolView, target: float, recent: deque[tuple[float, int]]) -> int:
        ready = max(1, pool.ready)
        ratio = (pool.running + pool.waiting) / ready / target
        wanted = pool.target
        if ratio > 1 + TOLERANCE:
            wanted = min(ceil(ready * ratio), ceil(MAX_UP * ready))
        elif ratio < 1 - TOLERANCE:
            wanted = max(1, floor(ready / 2))
        recent.append((now, wanted))
        while recent[0][0] <= now - self.COOL_DOWN_SECONDS:
            recent.popleft()
        return min(value for _, value in recent) if wanted < pool.target else wanted
