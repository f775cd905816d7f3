"""The command line of one worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proa_operator.api.kv_transfer import Backend
from proa_operator.api.service import ServiceSpec
from proa_operator.local.process import GrpcServing, Process, Role

HOST = "127.0.0.1"  # only the gateway and the other workers of this machine talk to a worker
_TRANSPORT = {Backend.AUTO: "shm", Backend.SHM: "shm", Backend.TCP: "tcp"}


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


def worker_process(
    spec: ServiceSpec,
    *,
    name: str,
    role: Role,
    program: tuple[str, ...],
    model: Path,
    ports: WorkerPorts,
    device: str,
    env: tuple[tuple[str, str], ...],
) -> Process:
    """One worker as a process. The manifest's extra arguments and environment come last, so that they win."""
    flags = {
        "role": role.value,
        "engine": spec.engine.type.value,
        "model": str(model),
        "served-model-name": spec.model.name,
        "host": HOST,
        "port": ports.engine,
        "kv-port": ports.kv,
        "kv-data-port": ports.kv_data,
        "admin-port": ports.admin,
        "metrics-port": ports.metrics,
        "engine-id": name,
        "dtype": spec.model.dtype.value,
        "device": device,
        "transport": _TRANSPORT[spec.kv_transfer.backend],
        "lease-seconds": spec.kv_transfer.lease_seconds,
        "kv-failure-policy": spec.kv_transfer.failure_policy.value,
        "drain-timeout-seconds": spec.drain.timeout_seconds,
    }
    options = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    return Process(
        name=name,
        role=role,
        argv=(*program, *options, *spec.engine.args),
        env=(*env, *((variable.name, variable.value) for variable in spec.engine.env)),
        port=ports.engine,
        metrics_url=f"http://{HOST}:{ports.metrics}/metrics",
        ready=GrpcServing(address=f"{HOST}:{ports.engine}"),
        drain_seconds=spec.drain.timeout_seconds + 5.0,  # the worker ends its drain by itself, this is for a stuck one
    )
