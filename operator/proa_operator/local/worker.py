"""The command line of one worker."""

from __future__ import annotations

from pathlib import Path

from proa_operator.api.kv_transfer import Backend
from proa_operator.api.service import ServiceSpec
from proa_operator.local.process import GrpcServing, Process, Role
from proa_operator.render.worker_flags import WorkerPorts, worker_flags

HOST = "127.0.0.1"  # only the gateway and the other workers of this machine talk to a worker
_TRANSPORT = {Backend.AUTO: "shm", Backend.SHM: "shm", Backend.TCP: "tcp"}


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
    flags = worker_flags(
        spec,
        role=role.value,
        model=str(model),
        host=HOST,
        ports=ports,
        engine_id=name,
        device=device,
        transport=_TRANSPORT[spec.kv_transfer.backend],
    )
    return Process(
        name=name,
        role=role,
        argv=(*program, *flags, *spec.engine.args),
        env=(*env, *((variable.name, variable.value) for variable in spec.engine.env)),
        port=ports.engine,
        metrics_url=f"http://{HOST}:{ports.metrics}/metrics",
        ready=GrpcServing(address=f"{HOST}:{ports.engine}"),
        drain_seconds=spec.drain.timeout_seconds + 5.0,  # the worker ends its drain by itself, this is for a stuck one
    )
