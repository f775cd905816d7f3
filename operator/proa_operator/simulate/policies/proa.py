"""Proa's production solver: `autoscale.decide`, fed with what the monitoring system would say."""

from __future__ import annotations

import numpy as np

from proa_operator.autoscale.config import Config, Limits, Objectives, PoolLimits, Speed, Stance
from proa_operator.autoscale.config import Policy as Tempo
from proa_operator.autoscale.decide import decide
from proa_operator.autoscale.memory import Memory
from proa_operator.autoscale.signals import LengthBucket, PoolSignals, Signals, Spans
from proa_operator.simulate.cost import Cost
from proa_operator.simulate.observe import Observation, PoolView
from proa_operator.simulate.policies.policy import Limits as Groups
from proa_operator.simulate.policies.policy import Slo, Targets
from proa_operator.simulate.traffic import Floats


class Proa:
    """Its memory starts empty, as after the first start of an operator."""

    name = "Proa"
    period_seconds = 15.0
    window_seconds = 60.0

    def __init__(self, cost: Cost, slo: Slo, limits: Groups) -> None:
        self._percentile = slo.percentile
        self._config = config_of(cost, slo, limits, self.period_seconds, self.window_seconds)
        self._memory = Memory()

    def decide(self, observation: Observation) -> Targets:
        decision = decide(signals_of(observation, self._percentile), self._memory, self._config)
        self._memory = decision.memory
        return Targets(prefill=decision.targets.prefill, decode=decision.targets.decode)


def config_of(cost: Cost, slo: Slo, limits: Groups, period_seconds: float, window_seconds: float) -> Config:
    """What a manifest with these bounds and default behaviour gives."""
    gpus = cost.gpus_per_group
    return Config(
        service="simulated",
        is_aggregated=False,
        limits=Limits(
            prefill=PoolLimits(min=limits.min_prefill, max=limits.max_prefill, gpus_per_group=gpus),
            decode=PoolLimits(min=limits.min_decode, max=limits.max_decode, gpus_per_group=gpus),
            ratio_min=1 / 8,
            ratio_max=8.0,
            max_gpus=0,
        ),
        slo=Objectives(ttft_seconds=slo.ttft_seconds, itl_seconds=slo.itl_seconds, percentile=slo.percentile / 100),
        policy=Tempo(
            stance=Stance.ACTIVE,
            period_seconds=period_seconds,
            up_window_seconds=30.0,
            down_window_seconds=300.0,
            pin_seconds=600.0,
        ),
        spans=Spans(arrivals=window_seconds, lengths=window_seconds),
        prefill=speed_of(cost),
        decode=speed_of(cost),
        has_profile=True,
    )


def speed_of(cost: Cost) -> Speed:
    return Speed(
        step_base=cost.base_seconds,
        step_experts=cost.experts_seconds,
        expert_share=cost.expert_share,
        prefill_token=cost.token_seconds,
        prefill_pair=cost.pair_seconds,
        decode_seq=cost.sequence_seconds,
        decode_context_token=cost.context_token_seconds,
        kv_bytes_per_token=float(cost.kv_bytes_per_token),
        kv_cache_tokens=float(cost.kv_cache_tokens),
        transfer_latency=cost.latency_seconds,
        transfer_bytes_per_second=cost.link_bytes_per_second,
        startup=cost.startup_seconds,
        max_num_seqs=cost.max_num_seqs,
        max_step_tokens=cost.max_batch_tokens,
    )


def signals_of(observation: Observation, percentile: float) -> Signals:
    """Rates per second over the observation's window. Lengths are those of finished requests, as engines have it."""
    window, prefilled = observation.window_seconds, observation.prefilled
    return Signals(
        now=observation.now,
        arrivals_per_second=observation.arrivals_per_second,
        histogram=histogram_of(observation),
        hit_rate=observation.hit_rate,
        backlog_tokens=float(observation.backlog_tokens),
        prefill=_pool(observation.prefill),
        decode=_pool(observation.decode),
        ttft_p=_quantile(observation.ttft_seconds, percentile),
        itl_p=_quantile(observation.itl_seconds, percentile),
        prefill_mean=observation.prefill_seconds / prefilled if prefilled else None,
        itl_mean=float(observation.itl_seconds.mean()) if len(observation.itl_seconds) else None,
        transfers_per_second=observation.transfers / window,
        transfer_bytes=observation.transfer_bytes / window,
        transfer_seconds=observation.transfer_seconds / window,
    )


def histogram_of(observation: Observation) -> tuple[LengthBucket, ...]:
    """Buckets of prompt lengths, powers of two, with the mean lengths in each."""
    prompts, outputs = observation.finished_prompt_tokens, observation.finished_output_tokens
    which = np.log2(np.maximum(prompts, 1)).astype(np.int64)
    return tuple(
        LengthBucket(
            prompt_tokens=float(prompts[which == bucket].mean()),
            output_tokens=float(outputs[which == bucket].mean()),
            weight=float((which == bucket).mean()),
        )
        for bucket in np.unique(which)
    )


def _pool(view: PoolView) -> PoolSignals:
    return PoolSignals(
        desired=view.target,
        ready=view.ready,
        starting=view.starting,
        draining=view.draining,
        running=view.running,
        waiting=float(view.waiting),
        kv_usage=min(1.0, view.kv_usage),
    )


def _quantile(values: Floats, percentile: float) -> float | None:
    return float(np.percentile(values, percentile)) if len(values) else None
