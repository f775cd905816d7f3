"""Kubernetes HorizontalPodAutoscaler (autoscaling/v2) as published, and the two uses of it that serve as baselines.

Algorithm: kubernetes.io, "Horizontal Pod Autoscaling": desired = ceil(current * value / target), nothing within 10 %;
growing takes the least recommendation of its window, shrinking the largest; rate limits of `behavior` come last.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import ceil, floor

import numpy as np

from proa_operator.simulate.observe import Observation, PoolView
from proa_operator.simulate.policies.policy import Slo, Targets

TOLERANCE = 0.1


@dataclass(slots=True, kw_only=True)
class Behavior:
    """One pool's windows and rate limits, with what they remember."""

    up_window_seconds: float = 0.0
    down_window_seconds: float = 300.0
    up_share: float = 1.0
    up_groups: int = 4
    up_seconds: float = 15.0
    down_share: float = 1.0
    down_groups: int = 0
    """0: only the share limits."""
    down_seconds: float = 15.0
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _counts: deque[tuple[float, int]] = field(default_factory=deque)

    def settle(self, now: float, current: int, wanted: int) -> int:
        """What the pool may become now, given what was wanted lately."""
        self._remember(now, current, wanted)
        least = min(value for at, value in self._wanted if at >= now - self.up_window_seconds)
        most = max(value for at, value in self._wanted if at >= now - self.down_window_seconds)
        if least > current:
            before = min(count for at, count in self._counts if at >= now - self.up_seconds)
            return min(least, max(current, ceil(before * (1 + self.up_share)), before + self.up_groups))
        if most < current:
            before = max(count for at, count in self._counts if at >= now - self.down_seconds)
            lost = max(self.down_groups, 0) or ceil(before * self.down_share)
            return max(most, min(current, before - lost))
        return current

    def _remember(self, now: float, current: int, wanted: int) -> None:
        self._wanted.append((now, wanted))
        self._counts.append((now, current))
        horizon = now - max(self.up_window_seconds, self.down_window_seconds, self.up_seconds, self.down_seconds)
        for kept in (self._wanted, self._counts):
            while kept[0][0] < horizon:
                kept.popleft()


def desired(current: int, ratio: float) -> int:
    """The HPA's formula: ratio is value over target."""
    return current if abs(ratio - 1) <= TOLERANCE else max(1, ceil(current * ratio))


class Hpa:
    """Both pools on utilisation. Favourable: decode is given its share of full batches, for a GPU that decodes one
    sequence already reports 100 %."""

    period_seconds = 15.0
    window_seconds = 60.0

    def __init__(self, target: float = 0.7) -> None:
        self.name = f"HPA {target:.0%}"
        self._target = target
        self._prefill, self._decode = Behavior(), Behavior()

    def decide(self, observation: Observation) -> Targets:
        return Targets(
            prefill=self._pool(observation.now, observation.prefill, self._prefill),
            decode=self._pool(observation.now, observation.decode, self._decode),
        )

    def _pool(self, now: float, pool: PoolView, behavior: Behavior) -> int:
        # pods that are not ready count as idle when the pool grows
        ready = max(1, pool.ready)
        wanted = desired(ready, pool.busy / self._target)
        if wanted > ready and pool.starting:
            wanted = max(
                pool.target, desired(ready + pool.starting, pool.busy * ready / (ready + pool.starting) / self._target)
            )
        return behavior.settle(now, pool.target, wanted)


class KedaSlo:
    """llm-d's SLO-aware recipe for KEDA (2026): size by the ratio of P90 latency to its limit, with a start-up credit.

    The recipe has one pool; here TTFT sizes prefill and time per token sizes decode, the favourable reading.
    """

    name = "KEDA-SLO"
    period_seconds = 15.0
    window_seconds = 60.0
    UP, DOWN, CAP = 0.55, 0.40, 2.0

    def __init__(self, slo: Slo) -> None:
        self._slo = slo
        self._seen: tuple[deque[float], deque[float]] = (deque(maxlen=3), deque(maxlen=3))  # 45 s
        self._behaviors = tuple(
            Behavior(
                up_window_seconds=30.0,
                down_window_seconds=180.0,
                up_seconds=60.0,
                down_groups=1,
                down_seconds=120.0,
            )
            for _ in range(2)
        )

    def decide(self, observation: Observation) -> Targets:
        ratios = (
            _p90(observation.ttft_seconds) / self._slo.ttft_seconds,
            _p90(observation.itl_seconds) / self._slo.itl_seconds,
        )
        pools = (observation.prefill, observation.decode)
        prefill, decode = (
            behavior.settle(observation.now, pool.target, self._wanted(seen, ratio, pool))
            for seen, ratio, pool, behavior in zip(self._seen, ratios, pools, self._behaviors, strict=True)
        )
        return Targets(prefill=prefill, decode=decode)

    def _wanted(self, seen: deque[float], ratio: float, pool: PoolView) -> int:
        seen.append(min(ratio, self.CAP))
        level, count = sum(seen) / len(seen), pool.target
        credit = pool.ready / count if count else 1.0
        if level > self.UP:
            return count + max(0, ceil(count * (level * credit / self.UP - 1)))
        if level < self.DOWN:
            return count - floor(count * (1 - level / self.DOWN))
        return count


def _p90(values: np.ndarray) -> float:
    """As published: no value counts as 0, so an outage looks idle."""
    return float(np.quantile(values, 0.9)) if len(values) else 0.0
