"""Settings and signals of a small service for the tests of the autoscaler, and a closed loop without a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from proa_operator.autoscale.config import Config, Limits, Objectives, Policy, PoolLimits, Speed, Stance
from proa_operator.autoscale.decide import Decision, decide
from proa_operator.autoscale.memory import Memory, Wish
from proa_operator.autoscale.replay import replay
from proa_operator.autoscale.signals import LengthBucket, PoolSignals, Signals, Spans

PERIOD = 15.0
SPANS = Spans(arrivals=60.0, lengths=60.0)
SPEED = Speed(
    step_base=0.02,
    step_experts=0.0,
    expert_share=0.0,
    prefill_token=0.2e-3,
    prefill_pair=0.0,
    decode_seq=1e-3,
    decode_context_token=0.0,
    kv_bytes_per_token=100_000.0,
    kv_cache_tokens=200_000.0,
    transfer_latency=0.001,
    transfer_bytes_per_second=10e9,
    startup=60.0,
)
LENGTHS = (
    LengthBucket(prompt_tokens=500.0, output_tokens=100.0, weight=0.5),
    LengthBucket(prompt_tokens=1500.0, output_tokens=100.0, weight=0.5),
)
"""0.22 s of prefill each in the mean; a group reads about 4 a second."""


def config(*, least: int = 1, most: int = 8, **changes: Any) -> Config:
    """Pools of `least` to `most` groups; `changes` to the Config or its Policy."""
    pool = PoolLimits(min=least, max=most, gpus_per_group=8)
    policy = Policy(
        stance=Stance.ACTIVE,
        period_seconds=PERIOD,
        up_window_seconds=30.0,
        down_window_seconds=300.0,
        pin_seconds=600.0,
    )
    limits = Limits(prefill=pool, decode=pool, ratio_min=0.125, ratio_max=8.0, max_gpus=0)
    base = Config(
        service="s",
        is_aggregated=False,
        limits=limits,
        slo=Objectives(ttft_seconds=1.0, itl_seconds=0.05, percentile=0.95),
        policy=policy,
        spans=SPANS,
        prefill=SPEED,
        decode=SPEED,
        has_profile=True,
    )
    return replace(base, **changes)


def signals(now: float = 0.0, rate: float = 1.0, prefill: int = 1, decode: int = 1, **changes: Any) -> Signals:
    """Of a service that serves `rate` requests a second, all groups ready."""
    base = Signals(
        now=now,
        arrivals_per_second=rate,
        histogram=LENGTHS if rate else (),
        hit_rate=0.0,
        backlog_tokens=0.0,
        prefill=PoolSignals(desired=prefill, ready=prefill),
        decode=PoolSignals(desired=decode, ready=decode),
    )
    return replace(base, **changes)


def wish_of(at: float, *numbers: int) -> Wish:
    """Prefill and decode groups: wished, surely wished, and roomy ones."""
    prefill, decode, sure_prefill, sure_decode, roomy_prefill, roomy_decode = numbers
    return Wish(
        at=at,
        prefill=prefill,
        decode=decode,
        sure_prefill=sure_prefill,
        sure_decode=sure_decode,
        roomy_prefill=roomy_prefill,
        roomy_decode=roomy_decode,
    )


def run(
    rates: Iterable[float],
    settings: Config,
    *,
    start: tuple[int, int] = (1, 1),
    memory: Memory | None = None,
    at: float = 0.0,
    **changes: Any,
) -> list[Decision]:
    """One decision a period, each carried out at once; every record is replayed on the way."""
    found: list[Decision] = []
    memory, sizes = memory or Memory(), start
    for idx, rate in enumerate(rates):
        seen = replace(signals(at + idx * settings.policy.period_seconds, rate, *sizes), **changes)
        decision = decide(seen, memory, settings)
        assert replay(json.loads(json.dumps(decision.record))).differences == ()
        memory, sizes = decision.memory, (decision.targets.prefill, decision.targets.decode)
        found.append(decision)
    return found


def sizes(decisions: Iterable[Decision]) -> list[tuple[int, int]]:
    """Targets, one pair a decision."""
    return [(decision.targets.prefill, decision.targets.decode) for decision in decisions]
