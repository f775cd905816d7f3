"""The saturation models of llm-d's workload variant autoscaler, as published (internal/saturation, saturation_v2).

It has no roles; here each pool is a variant of its own, the favourable reading. It waits while a pool is in transition.
"""

from __future__ import annotations

from collections import deque
from math import ceil, floor

import numpy as np

from proa_operator.simulate.cost import Cost
from proa_operator.simulate.observe import Observation, PoolView
from proa_operator.simulate.policies.policy import Targets

KV_SATURATED, QUEUE_SATURATED = 0.80, 5.0
SPARE_KV, SPARE_QUEUE = 0.10, 3.0


class WvaSaturation:
    """v1: up one when the mean spare of the pool is small, down one when N/(N-1) of the load keeps the spares."""

    name = "WVA v1"
    period_seconds = 30.0
    window_seconds = 60.0

    def __init__(self) -> None:
        self._peaks: tuple[deque[tuple[float, float]], ...] = (deque(maxlen=3), deque(maxlen=3))  # over a minute

    def decide(self, observation: Observation) -> Targets:
        pools = (observation.prefill, observation.decode)
        prefill, decode = (self._pool(pool, peaks) for pool, peaks in zip(pools, self._peaks, strict=True))
        return Targets(prefill=prefill, decode=decode)

    def _pool(self, pool: PoolView, peaks: deque[tuple[float, float]]) -> int:
        ready = max(1, pool.ready)
        peaks.append((pool.kv_usage, pool.waiting / ready))
        if pool.starting or pool.draining or not pool.ready:
            return pool.target
        kv, queue = max(kv for kv, _ in peaks), max(queue for _, queue in peaks)
        is_saturated = kv >= KV_SATURATED or queue >= QUEUE_SATURATED
        if is_saturated or KV_SATURATED - kv < SPARE_KV or QUEUE_SATURATED - queue < SPARE_QUEUE:
            return ready + 1
        more = ready / (ready - 1) if ready > 1 else 0.0
        keeps = KV_SATURATED - kv * more >= SPARE_KV and QUEUE_SATURATED - queue * more >= SPARE_QUEUE
        return ready - 1 if ready >= 2 and keeps else ready


class WvaTokens:
    """v2: demand and capacity in tokens. Capacity k2 is the mean of ten saturated samples, else derived."""

    name = "WVA v2"
    period_seconds = 30.0
    window_seconds = 60.0
    UP, DOWN = 0.85, 0.70

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._observed: tuple[deque[float], ...] = (deque(maxlen=10), deque(maxlen=10))

    def decide(self, observation: Observation) -> Targets:
        prompts, outputs = observation.finished_prompt_tokens, observation.finished_output_tokens
        if not len(prompts):
            return Targets(prefill=observation.prefill.target, decode=observation.decode.target)
        isl, osl = float(prompts.mean()), float(outputs.mean())
        pools = (observation.prefill, observation.decode)
        queued = (
            float(observation.backlog_tokens),
            observation.decode.waiting * isl,
        )
        derived = (self._derived(isl, 1.0), self._derived(isl, osl))
        prefill, decode = (self._pool(*each) for each in zip(pools, queued, derived, self._observed, strict=True))
        return Targets(prefill=prefill, decode=decode)

    def _derived(self, isl: float, osl: float) -> float:
        num_seqs = min(self._cost.max_batch_tokens * osl / (isl + osl), self._cost.max_num_seqs)
        return num_seqs * (isl + osl / 2)

    def _pool(self, pool: PoolView, queued: float, derived: float, observed: deque[float]) -> int:
        if pool.starting or pool.draining or not pool.ready:
            return pool.target
        in_use = pool.kv_usage * self._cost.kv_cache_tokens
        if pool.waiting / pool.ready >= QUEUE_SATURATED:
            observed.append(in_use)
        k2 = float(np.mean(observed)) if observed else derived
        capacity = max(1.0, min(self._cost.kv_cache_tokens * KV_SATURATED, k2))
        demand = in_use * pool.ready + queued
        required = demand / self.UP - capacity * pool.ready
        if required > 0:
            return pool.target + ceil(required / capacity)
        spare = capacity * pool.ready - demand / self.DOWN
        return max(1, pool.target - max(0, floor(spare / capacity)))
