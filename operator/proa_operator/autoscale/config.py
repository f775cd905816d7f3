"""What does not change from one decision to the next: bounds, objectives, tempo and the speed of a group."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise

from proa_operator.api.autoscaling import Autoscaling, Behavior, Mode
from proa_operator.api.performance_profile import PerformanceProfileSpec
from proa_operator.api.pools import Pool
from proa_operator.api.service import ServiceSpec, Topology
from proa_operator.autoscale.signals import Spans


class Stance(StrEnum):
    """What becomes of a decision."""

    ACTIVE = "Active"
    ADVISORY = "Advisory"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of one pool, in groups."""

    min: int
    max: int
    gpus_per_group: int
    """GPUs of a group; 1 where a group has none, so that groups count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of both pools together."""

    prefill: PoolLimits
    decode: PoolLimits
    ratio_min: float
    """Fewest prefill groups for each decode group."""
    ratio_max: float
    max_gpus: int
    """Most GPUs; 0 for no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """The SLO, in seconds."""

    ttft_seconds: float
    itl_seconds: float
    percentile: float
    """As a share: 0.95."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When to act on what was solved."""

    stance: Stance
    period_seconds: float
    up_window_seconds: float
    down_window_seconds: float
    pin_seconds: float
    down_pause_fraction: float = 0.4
    """Of the down window: pause between two steps down of a pool (120 s of 300 s)."""
    down_share: float = 0.25
    """Of a pool: most that one step down takes, and always at least one group."""
    drain_seconds: float = 10.0
    """Within this, or within twice the TTFT objective, a backlog has to be gone."""
    drain_startups: float = 2.0
    """The same in start-up times; the longest counts."""
    settle_startups: float = 1.5
    """Start-up times after a step up within which nothing shrinks."""
    min_samples: int = 20
    """Model updates before a service without a profile is sized from what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one group is: numbers of a PerformanceProfile, seconds and bytes."""

    step_base: float
    step_experts: float
    expert_share: float
    prefill_token: float
    prefill_pair: float
    decode_seq: float
    decode_context_token: float
    kv_bytes_per_token: float
    kv_cache_tokens: float
    transfer_latency: float
    transfer_bytes_per_second: float
    startup: float
    max_num_seqs: int = 256
    """Most sequences of a step."""
    max_step_tokens: int = 2048
    """Most tokens of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that `decide` needs besides signals and memory."""

    service: str
    is_aggregated: bool
    limits: Limits
    slo: Objectives
    policy: Policy
    spans: Spans
    """Of the signals: they tell how much of a difference is chance."""
    prefill: Speed
    decode: Speed
    has_profile: bool
    """False: the speeds are guesses, models are learned from what is seen, and nothing shrinks before that."""


GUESS = Speed(
    step_base=3.3e-3,
    step_experts=12.2e-3,
    expert_share=8 / 128,
    prefill_token=11.1e-6,
    prefill_pair=1.82e-9,
    decode_seq=20e-6,
    decode_context_token=21e-9,
    kv_bytes_per_token=98_304.0,
    kv_cache_tokens=262_144.0,
    transfer_latency=1e-3,
    transfer_bytes_per_second=45e9,
    startup=60.0,
)
"""Starting point without a profile: the defaults of the simulated engine's cost model."""
LOCAL_WIRE = 1e12
"""Bytes per second of a hand-off that the profile does not know: as if it took no time."""


def config_from(
    name: str,
    spec: ServiceSpec,
    prefill: PerformanceProfileSpec | None,
    decode: PerformanceProfileSpec | None = None,
    *,
    spans: Spans,
) -> Config:
    """Settings of one service; `prefill` speaks for decode groups too when `decode` is not given."""
    decode = decode or prefill
    has_profile = prefill is not None
    autoscaling = spec.autoscaling
    stance = Stance.ACTIVE if autoscaling.mode is Mode.ACTIVE and has_profile else Stance.ADVISORY
    batch = _batch_limits(spec.engine.args)
    return Config(
        service=name,
        is_aggregated=spec.topology is Topology.AGGREGATED,
        limits=_limits(spec),
        slo=Objectives(
            ttft_seconds=spec.slo.ttft_ms / 1000,
            itl_seconds=spec.slo.itl_ms / 1000,
            percentile=spec.slo.percentile / 100,
        ),
        policy=policy_from(autoscaling.behavior, stance),
        spans=spans,
        prefill=speed_from(prefill, *batch) if prefill else GUESS,
        decode=speed_from(decode, *batch) if decode else GUESS,
        has_profile=has_profile,
    )


def policy_from(behavior: Behavior, stance: Stance) -> Policy:
    """Tempo as the manifest has it."""
    return Policy(
        stance=stance,
        period_seconds=float(behavior.period_seconds),
        up_window_seconds=float(behavior.up_window_seconds),
        down_window_seconds=float(behavior.down_window_seconds),
        pin_seconds=float(behavior.pin_seconds),
    )


def speed_from(profile: PerformanceProfileSpec, max_num_seqs: int = 256, max_step_tokens: int = 2048) -> Speed:
    """Numbers of a profile; a hand-off that was not measured takes no time."""
    transfer = profile.transfer
    return Speed(
        step_base=float(profile.step.base_seconds),
        step_experts=float(profile.step.experts_seconds),
        expert_share=float(profile.step.expert_share),
        prefill_token=float(profile.prefill.token_seconds),
        prefill_pair=float(profile.prefill.pair_seconds),
        decode_seq=float(profile.decode.sequence_seconds),
        decode_context_token=float(profile.decode.context_token_seconds),
        kv_bytes_per_token=float(profile.kv_bytes_per_token),
        kv_cache_tokens=float(profile.kv_cache_tokens),
        transfer_latency=float(transfer.latency_seconds) if transfer else 0.0,
        transfer_bytes_per_second=float(transfer.bytes_per_second) if transfer else LOCAL_WIRE,
        startup=float(profile.startup_seconds),
        max_num_seqs=max_num_seqs,
        max_step_tokens=max_step_tokens,
    )


def _limits(spec: ServiceSpec) -> Limits:
    autoscaling = spec.autoscaling
    return Limits(
        prefill=_pool_limits(spec, autoscaling, spec.pools.prefill),
        decode=_pool_limits(spec, autoscaling, spec.pools.decode),
        ratio_min=_ratio(autoscaling.ratio.min),
        ratio_max=_ratio(autoscaling.ratio.max),
        max_gpus=autoscaling.max_gpus,
    )


def _pool_limits(spec: ServiceSpec, autoscaling: Autoscaling, pool: Pool | None) -> PoolLimits:
    if pool is None:
        return PoolLimits(min=0, max=0, gpus_per_group=0)
    bounds = autoscaling.prefill if pool is spec.pools.prefill else autoscaling.decode
    per_pod = spec.accelerator.gpus_per_pod if spec.accelerator else 0
    return PoolLimits(min=bounds.min, max=bounds.max, gpus_per_group=max(1, per_pod * pool.nodes_per_group))


def _ratio(text: str) -> float:
    prefill, decode = text.split(":")
    return float(Fraction(int(prefill), int(decode)))


def _batch_limits(args: tuple[str, ...]) -> tuple[int, int]:
    """--max-num-seqs and --max-num-batched-tokens, which vllm and Proa's engines spell alike."""
    words = [word for arg in args for word in arg.split("=", 1)]
    found = dict(pairwise(words))
    seqs, tokens = found.get("--max-num-seqs", ""), found.get("--max-num-batched-tokens", "")
    return int(seqs) if seqs.isdecimal() else 256, int(tokens) if tokens.isdecimal() else 2048
