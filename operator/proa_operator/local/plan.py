"""From a manifest to the processes that serve it on this machine. Pure: ports come from the given allocator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from proa_operator.api.autoscaling import Mode
from proa_operator.api.service import DisaggregatedService, ServiceSpec, Topology
from proa_operator.errors import PlanError
from proa_operator.local.gateway import gateway_process, is_loopback, reachable
from proa_operator.local.options import Options
from proa_operator.local.process import LocalPlan, Process, Role, Scaling
from proa_operator.local.programs import Programs
from proa_operator.local.refusals import cluster_only, refuse
from proa_operator.local.worker import worker_process
from proa_operator.render.worker_flags import WorkerPorts

_KV_MEMORY = "--kv-cache-memory"
_POOLS = {Role.PREFILL: "prefill", Role.DECODE: "decode", Role.BOTH: "worker"}


def plan(
    service: DisaggregatedService,
    options: Options,
    *,
    programs: Programs,
    model: Path,
    state_dir: Path,
    next_port: Callable[[], int],
    control_key: str,
) -> LocalPlan:
    """All processes of `service`: a gateway and its workers. Raises PlanError for what local mode cannot serve."""
    spec = service.spec
    refuse(spec)
    port = gateway_port(service, options)
    roles = worker_roles(spec, options)
    most = max(len(roles), _most_workers(spec))

    start = partial(worker_process, spec, program=programs.worker, model=model, device=options.device)

    def make_worker(role: Role, idx: int) -> Process:
        """Takes the next free ports, so calls are in the order of the table."""
        env = _shares(options, _position(role, idx, spec, roles), most)
        return start(name=f"{_POOLS[role]}-{idx}", role=role, ports=WorkerPorts.take(next_port), env=env)

    workers = tuple(make_worker(role, idx) for role, idx in roles)
    gateway = gateway_process(
        spec,
        program=programs.gateway,
        model=model,
        workers=workers,
        host=options.host,
        port=port,
        metrics_port=next_port(),
        control_key=control_key,
    )
    return LocalPlan(
        service=service.metadata.name,
        model_name=spec.model.name,
        url=f"http://{reachable(options.host)}:{port}",
        state_dir=state_dir,
        processes=(*workers, gateway),
        notes=_notes(spec, options, most),
        scaling=Scaling(service=service, make_worker=make_worker, next_port=next_port, control_key=control_key)
        if is_scaled(spec)
        else None,
    )


def is_scaled(spec: ServiceSpec) -> bool:
    """Whether the autoscaler looks at the service."""
    return spec.autoscaling.mode is not Mode.DISABLED


def gateway_port(service: DisaggregatedService, options: Options) -> int:
    """Port that clients use."""
    return options.port if options.port is not None else service.spec.gateway.port


def worker_roles(spec: ServiceSpec, options: Options) -> list[tuple[Role, int]]:
    """Roles of the workers, and their numbers within the role. PlanError for options that contradict the manifest."""
    prefill = (
        options.prefill if options.prefill is not None else spec.pools.prefill.replicas if spec.pools.prefill else 0
    )
    decode = options.decode if options.decode is not None else spec.pools.decode.replicas
    if _is_aggregated(spec, options):
        return _named(Role.BOTH, prefill + decode if options.workers is None else options.workers)
    return [*_named(Role.PREFILL, prefill), *_named(Role.DECODE, decode)]


def _is_aggregated(spec: ServiceSpec, options: Options) -> bool:
    is_one_pool = options.is_aggregated or spec.topology is Topology.AGGREGATED
    if is_one_pool and (options.prefill is not None or options.decode is not None):
        raise PlanError("an aggregated service has one pool, --prefill and --decode size two: use --workers instead")
    if not is_one_pool and options.workers is not None:
        raise PlanError("--workers sizes an aggregated service: add --aggregated, or use --prefill and --decode")
    return is_one_pool


def _named(role: Role, number: int) -> list[tuple[Role, int]]:
    if number < 1:
        pool = _POOLS[role]
        raise PlanError(f"the {pool} pool has no replicas: give it at least 1, in the manifest or on the command line")
    return [(role, index) for index in range(number)]


def _most_workers(spec: ServiceSpec) -> int:
    return spec.autoscaling.prefill.max + spec.autoscaling.decode.max if is_scaled(spec) else 0


def _position(role: Role, idx: int, spec: ServiceSpec, roles: list[tuple[Role, int]]) -> int:
    """Among all workers that there may be: GPUs are given in turn."""
    if (role, idx) in roles:
        return roles.index((role, idx))
    return len(roles) + idx + (spec.autoscaling.prefill.max if role is Role.DECODE else 0)


def _shares(options: Options, worker_idx: int, num_workers: int) -> tuple[tuple[str, str], ...]:
    """Environment that keeps the workers of one machine off each other's GPU and cores."""
    gpu = options.gpus.env_of(worker_idx) if options.gpus else ()
    # One core is left to the gateway and the clients: OpenMP threads that find no core of their own spin and lose more
    # than they gain (2 threads on 2 busy cores: 110 ms a token instead of 6).
    num_threads = max(1, (options.num_cores - 1) // num_workers)
    threads = (("OMP_NUM_THREADS", str(num_threads)),) if options.num_cores else ()
    return (*gpu, *threads)


def _notes(spec: ServiceSpec, options: Options, num_workers: int) -> tuple[str, ...]:
    notes = []
    if ignored := cluster_only(spec):
        notes.append(f"used in a cluster only, ignored here: {', '.join(ignored)}")
    if not is_loopback(options.host):
        notes.append("the gateway asks for no key: whoever reaches this machine may use it")
    if options.gpus and num_workers > len(options.gpus.ids) and _KV_MEMORY not in spec.engine.args:
        notes.append(
            f"{num_workers} workers share {len(options.gpus.ids)} GPU and each may take most of its memory: "
            f'give each a part with engine.args: ["{_KV_MEMORY}", "8GiB"]'
        )
    return tuple(notes)
