"""Flags of `proa-worker` that follow from a spec; the same in a cluster and on one machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proa_operator.api.service import ServiceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPorts:
    """The five ports of a worker."""

    engine: int
    kv: int
    kv_data: int
    admin: int
    metrics: int

    @classmethod
    def take(cls, next_port: Callable[[], int]) -> WorkerPorts:
        """Five ports from an allocator."""
        return cls(engine=next_port(), kv=next_port(), kv_data=next_port(), admin=next_port(), metrics=next_port())


def worker_flags(
    spec: ServiceSpec,
    *,
    role: str,
    model: str,
    host: str,
    ports: WorkerPorts,
    engine_id: str,
    device: str,
    transport: str,
) -> tuple[str, ...]:
    """All flags but the manifest's own `engine.args`, which come last so that they win."""
    flags = {
        "role": role,
        "engine": spec.engine.type.value,
        "model": model,
        "served-model-name": spec.model.name,
        "host": host,
        "port": ports.engine,
        "kv-port": ports.kv,
        "kv-data-port": ports.kv_data,
        "admin-port": ports.admin,
        "metrics-port": ports.metrics,
        "engine-id": engine_id,
        "dtype": spec.model.dtype.value,
        "device": device,
        "transport": transport,
        "lease-seconds": spec.kv_transfer.lease_seconds,
        "kv-failure-policy": spec.kv_transfer.failure_policy.value,
        "drain-timeout-seconds": spec.drain.timeout_seconds,
    }
    return tuple(word for flag, value in flags.items() for word in (f"--{flag}", str(value)))
