"""Small settings for tests of the simulator: fixed pools, plain costs, hand-made traffic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from proa_operator.simulate.cost import Cost
from proa_operator.simulate.observe import Observation, PoolView
from proa_operator.simulate.policies.policy import Limits, Targets
from proa_operator.simulate.run import Setting
from proa_operator.simulate.traffic import Fault, Traffic

COST = Cost(
    base_seconds=0.0,
    experts_seconds=0.0,
    expert_share=0.0,
    token_seconds=1e-3,
    pair_seconds=0.0,
    sequence_seconds=0.01,
    context_token_seconds=0.0,
    latency_seconds=0.0,
    link_bytes_per_second=1e12,
    kv_bytes_per_token=1,
    kv_cache_tokens=1_000_000,
    startup_seconds=30.0,
    gpus_per_group=2,
    max_batch_tokens=1,  # one prompt in each step
)
LIMITS = Limits(max_prefill=8, max_decode=8)


class Scripted:
    """Targets by time; before the first one the start holds."""

    name = "scripted"
    window_seconds = 1.0

    def __init__(self, *steps: tuple[float, int, int], period_seconds: float = 10.0) -> None:
        self.steps = steps
        self.period_seconds = period_seconds

    def decide(self, observation: Observation) -> Targets:
        now = Targets(prefill=observation.prefill.target, decode=observation.decode.target)
        due = [Targets(prefill=prefill, decode=decode) for at, prefill, decode in self.steps if at <= observation.now]
        return due[-1] if due else now


def traffic(arrivals: Sequence[float], prompts: Sequence[int], outputs: Sequence[int]) -> Traffic:
    return Traffic(
        arrival_seconds=np.array(arrivals, dtype=np.float64),
        prompt_tokens=np.array(prompts, dtype=np.int64),
        cached_tokens=np.zeros(len(arrivals), dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
    )


def setting(
    requests: Traffic,
    *,
    cost: Cost = COST,
    prefill: int = 1,
    decode: int = 1,
    end_seconds: float = 1000.0,
    fabric_bytes_per_second: float = 1e12,
    faults: Sequence[Fault] = (),
) -> Setting:
    return Setting(
        traffic=requests,
        cost=cost,
        limits=LIMITS,
        start=Targets(prefill=prefill, decode=decode),
        end_seconds=end_seconds,
        fabric_bytes_per_second=fabric_bytes_per_second,
        best_batch=10,
        faults=faults,
    )


def view(**changes: float) -> PoolView:
    """A pool of four ready groups with nothing to do."""
    plain = {"ready": 4, "starting": 0, "draining": 0, "target": 4, "running": 0.0, "waiting": 0, "kv_usage": 0.0}
    return PoolView(**{**plain, "busy": 0.0, **changes})  # type: ignore[arg-type]


def observation(now: float = 600.0, prefill: PoolView | None = None, decode: PoolView | None = None) -> Observation:
    """A minute in which nothing arrived and nothing ended."""
    no_tokens, no_seconds = np.zeros(0, dtype=np.int64), np.zeros(0)
    return Observation(
        now=now,
        window_seconds=60.0,
        prefill=prefill or view(),
        decode=decode or view(),
        arrived_prompt_tokens=no_tokens,
        arrived_cached_tokens=no_tokens,
        finished_prompt_tokens=no_tokens,
        finished_output_tokens=no_tokens,
        ttft_seconds=no_seconds,
        itl_seconds=no_seconds,
        backlog_tokens=0,
        prefilled=0,
        prefill_seconds=0.0,
        transfers=0,
        transfer_bytes=0.0,
        transfer_seconds=0.0,
    )
