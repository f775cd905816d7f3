"""Command line of a worker in a pod."""

from __future__ import annotations

from proa_operator.api.engine import EngineType
from proa_operator.api.kv_transfer import Backend
from proa_operator.api.pools import FarSkip, Pool, Switch
from proa_operator.api.service import ServiceSpec
from proa_operator.names import WORKER_PORTS, Port
from proa_operator.render.env import POD_INDEX, POD_IP, POD_NAME
from proa_operator.render.metadata import Group
from proa_operator.render.worker_flags import WorkerPorts, worker_flags

PROGRAM = "proa-worker"
_ANY_ADDRESS = "0.0.0.0"
_PORTS = WorkerPorts(
    engine=WORKER_PORTS[Port.ENGINE],
    kv=WORKER_PORTS[Port.KV],
    kv_data=WORKER_PORTS[Port.KV_DATA],
    admin=WORKER_PORTS[Port.ADMIN],
    metrics=WORKER_PORTS[Port.METRICS],
)


def worker_args(group: Group, *, model: str) -> list[str]:
    """Arguments of `proa-worker`; the manifest's `engine.args` come last."""
    service = group.service
    spec = service.spec
    flags = worker_flags(
        spec,
        role="both" if service.is_aggregated else group.role.value,
        model=model,
        host=_ANY_ADDRESS,
        ports=_PORTS,
        engine_id=POD_NAME,
        device=_device(spec),
        transport=_transport(spec.kv_transfer.backend),
    )
    own = ("--advertise-host", POD_IP, "--log-format", "json")
    return [*flags, *own, *_shape_flags(group), *spec.engine.args]


def _device(spec: ServiceSpec) -> str:
    """ROCm devices are called cuda as well; asked for by name, a missing one is an error and not a slow worker."""
    if spec.engine.type is EngineType.SIM:
        return "auto"
    return "cpu" if spec.accelerator is None else "cuda"


def _transport(backend: Backend) -> str:
    """Pods share no memory, so auto is tcp."""
    return "tcp" if backend is Backend.AUTO else backend.value


def _shape_flags(group: Group) -> list[str]:
    """How the group splits the model, where it differs from one process on one device.

    The sim engine gets none: its profile says what such a group can do.
    """
    spec = group.service.spec
    if spec.engine.type is EngineType.SIM:
        return []
    pool = group.service.pool(group.role)
    options = {**_parallel_flags(pool), **_overlap_flags(pool), **_node_flags(group, pool)}
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _parallel_flags(pool: Pool) -> dict[str, str]:
    sizes = {name: getattr(pool.parallelism, name) for name in ("tp", "pp", "cp", "dp", "ep")}
    return {name: str(size) for name, size in sizes.items() if size > 1}


def _overlap_flags(pool: Pool) -> dict[str, str]:
    flags = {}
    if pool.overlap.two_batch is not Switch.AUTO:
        flags["two-batch"] = pool.overlap.two_batch.value
    if pool.overlap.prefill_delayer is not Switch.AUTO:
        flags["prefill-delayer"] = pool.overlap.prefill_delayer.value
    if pool.overlap.farskip is not FarSkip.OFF:
        flags["farskip"] = pool.overlap.farskip.value
    if pool.speculative.mtp > 0:
        flags["mtp"] = str(pool.speculative.mtp)
    return flags


def _node_flags(group: Group, pool: Pool) -> dict[str, str]:
    """The leader is pod 0, found by name before it is Ready."""
    if pool.nodes_per_group == 1:
        return {}
    leader = f"{group.name}-0.{group.name}.{group.service.namespace}.svc"
    return {"num-nodes": str(pool.nodes_per_group), "node-rank": POD_INDEX, "leader-host": leader}
