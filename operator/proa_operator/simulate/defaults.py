"""The simulated service that scenarios use when no profile is given."""

from __future__ import annotations

from proa_operator.api.engine import EngineType
from proa_operator.api.performance_profile import (
    DecodeCost,
    Origin,
    PerformanceProfileSpec,
    PrefillCost,
    Provenance,
    StepCost,
    TransferCost,
)
from proa_operator.simulate.policies.policy import Limits, Slo

PROFILE = PerformanceProfileSpec(
    model="simulated",
    engine=EngineType.SIM,
    step=StepCost(base_seconds="0.008", experts_seconds="0.006", expert_share="0.0625"),
    prefill=PrefillCost(token_seconds="200e-6", pair_seconds="2e-9"),
    decode=DecodeCost(sequence_seconds="0.5e-3", context_token_seconds="0.05e-6"),
    transfer=TransferCost(latency_seconds="0.002", bytes_per_second=25_000_000_000),
    kv_bytes_per_token=98_304,
    kv_cache_tokens=500_000,
    startup_seconds=90,
    provenance=Provenance(
        origin=Origin.SIMULATED,
        date="2026-11-24",
        source="slow on purpose: a few requests a second keep several groups of each pool busy; no hardware is meant",
    ),
)
SLO = Slo(ttft_seconds=6.0, itl_seconds=0.040)
LIMITS = Limits(max_prefill=32, max_decode=32)
FABRIC_BYTES_PER_SECOND = 100e9

TRACE_PROFILE = PerformanceProfileSpec(
    model="simulated",
    engine=EngineType.SIM,
    step=StepCost(base_seconds="0.008", experts_seconds="0.006", expert_share="0.0625"),
    prefill=PrefillCost(token_seconds="80e-6", pair_seconds="0.6e-9"),
    decode=DecodeCost(sequence_seconds="0.8e-3", context_token_seconds="0.04e-6"),
    transfer=TransferCost(latency_seconds="0.002", bytes_per_second=25_000_000_000),
    kv_bytes_per_token=98_304,
    kv_cache_tokens=1_000_000,
    startup_seconds=90,
    provenance=Provenance(
        origin=Origin.SIMULATED,
        date="2026-11-24",
        source="quicker with long prompts, which the recorded trace has; no hardware is meant",
    ),
)
TRACE_SLO = Slo(ttft_seconds=12.0, itl_seconds=0.040)
