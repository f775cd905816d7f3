"""The two planners of Dynamo, as published: docs/architecture/sla_planner.md; core/{throughput,load}_scaling.py.

Classic: every 180 s, demand from finished requests and their mean lengths, times correction factors; each pool apart.
Load: every 5 s, one group more when all workers are over the SLO by estimate, one less when N-1 would hold it.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from proa_operator.simulate.cost import Cost
from proa_operator.simulate.observe import Observation
from proa_operator.simulate.policies.policy import Slo, Targets


class DynamoClassic:
    """Forecast: constant, one of the published choices."""

    name = "Dynamo classic"
    period_seconds = 180.0
    window_seconds = 180.0

    def __init__(self, cost: Cost, slo: Slo) -> None:
        self._cost, self._slo = cost, slo

    def decide(self, observation: Observation) -> Targets:
        now = Targets(prefill=observation.prefill.target, decode=observation.decode.target)
        if not len(observation.finished_prompt_tokens) or not len(observation.ttft_seconds):
            return now
        isl = float(observation.finished_prompt_tokens.mean())
        osl = float(observation.finished_output_tokens.mean())
        rate = observation.finished_per_second
        context = isl + osl / 2
        return Targets(
            prefill=self._prefill(rate, isl, float(observation.ttft_seconds.mean())),
            decode=self._decode(rate, osl, context, observation),
        )

    def _prefill(self, rate: float, isl: float, ttft: float) -> int:
        seconds = self._cost.prefill_seconds(self._cost.own_seconds(round(isl), 0), round(isl))
        return max(1, ceil(rate * seconds * min(1.0, ttft / seconds)))

    def _decode(self, rate: float, osl: float, context: float, observation: Observation) -> int:
        pool, cost = observation.decode, self._cost
        num_seqs = max(1, round(pool.running / max(1, pool.ready)))
        expected = cost.decode_seconds(num_seqs, num_seqs * context)
        gaps = observation.itl_seconds
        correction = float(gaps.mean()) / expected if len(gaps) and gaps.mean() > 0 else 1.0
        batch = cost.best_batch(self._slo.itl_seconds / correction, context)
        return max(1, ceil(rate * osl * cost.decode_seconds(batch, batch * context) / batch))


class DynamoLoad:
    """The load loop, with the throughput loop as its lower bound, which takes the hit rate into account."""

    name = "Dynamo load"
    period_seconds = 5.0
    window_seconds = 60.0
    KEEP = 0.8  # of the SLO, after one group less
    THROUGHPUT_SECONDS = 180.0

    def __init__(self, cost: Cost, slo: Slo) -> None:
        self._cost, self._slo = cost, slo
        self._floor = Targets(prefill=1, decode=1)
        self._floor_at = 0.0

    def decide(self, observation: Observation) -> Targets:
        if observation.now - self._floor_at >= self.THROUGHPUT_SECONDS:
            self._floor, self._floor_at = self._throughput(observation), observation.now
        return Targets(
            prefill=max(self._floor.prefill, self._prefill(observation)),
            decode=max(self._floor.decode, self._decode(observation)),
        )

    def _prefill(self, observation: Observation) -> int:
        """Estimated time to first token of a new prompt: what is queued at a worker, and itself."""
        pool, slo = observation.prefill, self._slo.ttft_seconds
        if pool.starting or not pool.ready:
            return pool.target
        own = observation.prefill_seconds / observation.prefilled if observation.prefilled else 0.0
        queued = observation.backlog_tokens * self._cost.token_seconds
        if queued / pool.ready + own > slo:
            return pool.ready + 1
        fewer = pool.ready - 1
        # the queue of N-1 groups is judged by how busy they would be
        would = pool.busy * pool.ready / fewer if fewer else 1.0
        wait = own * would / (1 - would) / fewer if would < 1 else slo
        return fewer if queued / max(1, fewer) + wait < (slo - own) * self.KEEP and would < 1 else pool.ready

    def _decode(self, observation: Observation) -> int:
        pool, slo = observation.decode, self._slo.itl_seconds
        if pool.starting or not pool.ready:
            return pool.target
        if self._step_seconds(observation, pool.ready) > slo or pool.waiting:
            return pool.ready + 1
        fewer = pool.ready - 1
        holds = fewer and self._step_seconds(observation, fewer) < self.KEEP * slo
        return fewer if holds and pool.kv_usage * pool.ready / fewer < 0.9 else pool.ready

    def _step_seconds(self, observation: Observation, num_groups: int) -> float:
        pool, cost = observation.decode, self._cost
        num_seqs = ceil(pool.running / num_groups)
        tokens = pool.kv_usage * cost.kv_cache_tokens * pool.ready / num_groups
        return cost.decode_seconds(min(num_seqs, cost.max_batch_tokens), tokens)

    def _throughput(self, observation: Observation) -> Targets:
        prompts, outputs = observation.finished_prompt_tokens, observation.finished_output_tokens
        if not len(prompts):
            return Targets(prefill=1, decode=1)
        isl, osl = float(prompts.mean()), float(outputs.mean())
        new = max(1, round(isl * (1 - observation.hit_rate)))
        seconds = self._cost.prefill_seconds(self._cost.own_seconds(new, 0), new)
        context = isl + osl / 2
        batch = self._cost.best_batch(self._slo.itl_seconds, context)
        step = self._cost.decode_seconds(batch, batch * context)
        rate = observation.finished_per_second
        return Targets(prefill=ceil(np.ceil(rate * seconds)), decode=ceil(rate * osl * step / batch))
