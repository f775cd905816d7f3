"""What a worker measured, as a PerformanceProfile. Pure."""

from __future__ import annotations

from typing import Any

from proa_operator.api.performance_profile import (
    DecodeCost,
    Origin,
    PerformanceProfile,
    PerformanceProfileSpec,
    PrefillCost,
    Provenance,
    StepCost,
)
from proa_operator.api.pools import Pool
from proa_operator.api.service import Metadata, ServiceSpec

Json = dict[str, Any]


def document(spec: ServiceSpec, pool: Pool, measured: Json, *, name: str, date: str) -> PerformanceProfile:
    """Of one pool of a service; `measured` is what `proa-worker --profile` wrote, `date` as 2026-01-31.

    A hand-off is not measured: between two machines it depends on their links, and the autoscaler learns it.
    """
    cost = {key: f"{value:.4g}" for key, value in measured["coefficients"].items()}
    return PerformanceProfile(
        api_version="proa.dev/v1alpha1",
        kind="PerformanceProfile",
        metadata=Metadata(name=name),
        spec=PerformanceProfileSpec(
            model=spec.model.uri,
            dtype=spec.model.dtype,
            engine=spec.engine.type,
            accelerator=spec.accelerator,
            nodes_per_group=pool.nodes_per_group,
            parallelism=pool.parallelism,
            step=StepCost(
                base_seconds=cost["step_base_seconds"],
                experts_seconds=cost["step_experts_seconds"],
                expert_share=cost["expert_share"],
            ),
            prefill=PrefillCost(token_seconds=cost["prefill_token_seconds"], pair_seconds=cost["prefill_pair_seconds"]),
            decode=DecodeCost(
                sequence_seconds=cost["decode_seq_seconds"],
                context_token_seconds=cost["decode_context_token_seconds"],
            ),
            kv_bytes_per_token=measured["kv_bytes_per_token"],
            kv_cache_tokens=measured["kv_cache_tokens"],
            startup_seconds=measured["startup_seconds"],
            provenance=_provenance(measured, date),
        ),
    )


def _provenance(measured: Json, date: str) -> Provenance:
    return Provenance(
        origin=Origin.SIMULATED if measured["is_simulated"] else Origin.MEASURED,
        date=date,
        source=f"{measured['program']}, {measured['dtype']} on {measured['device']}",
        samples=measured["num_steps"],
        fit_error=f"{measured['fit_error']:.3g}",
    )
