"""The measurements, one after the other on one cluster: each returns its row of the record."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from bench.k8s.audit import AuditTail, Request
from bench.k8s.changes import Change, Kind, change_child, heal, make
from bench.k8s.client import Client
from bench.k8s.fleet import Say, add_nodes, add_services, add_volumes, await_serving
from bench.k8s.latency import OPERATOR, child_writes, latencies, percentile
from bench.k8s.load import Processes, rss_mib
from bench.k8s.scale import Scale
from testbed.control_plane import ControlPlane
from tests.cluster.operator_process import Doubles, Operator

Row = dict[str, Any]
ANSWER_SECONDS = 60.0
FAILOVER_CHANGES = 10
_EVERY_SECONDS = 0.2


@dataclass(slots=True, kw_only=True)
class Stage:
    """A cluster with one operator that leads, and how much of a phase's machine time is whose."""

    bed: ControlPlane
    scale: Scale
    client: Client
    doubles: Doubles
    operator: Operator
    processes: Processes
    up_seconds: float
    say: Say

    def lead(self, operator: Operator) -> None:
        """The operator that is measured from now on."""
        assert operator.process is not None
        self.operator = operator
        self.processes.pids["operator"] = operator.process.pid

    def rss(self) -> Row:
        """Of the leading operator."""
        now, most = rss_mib(self.processes.pids["operator"])
        return {"rss_mib": now, "rss_most_mib": most}

    def audit(self) -> AuditTail:
        """From now on."""
        return AuditTail(self.bed.run / "audit.log")


async def bring_up(stage: Stage) -> Row:
    """From an empty cluster with a running operator to all services serving."""
    before, started, audit = stage.processes.read(), time.monotonic(), stage.audit()
    await add_nodes(stage.client, stage.scale)
    await add_volumes(stage.client, stage.scale, stage.bed.run / "volumes")
    nodes_seconds = time.monotonic() - started
    stage.say(f"{stage.scale.nodes} nodes after {nodes_seconds:.0f} s")
    await add_services(stage.client, stage.scale, stage.doubles.prefill, stage.doubles.decode)
    stage.say(f"{stage.scale.services} services asked for after {time.monotonic() - started:.0f} s")
    await await_serving(stage.client, stage.scale, seconds=stage.up_seconds, say=stage.say)
    seconds = time.monotonic() - started
    return {
        "seconds": round(seconds, 1),
        "nodes_seconds": round(nodes_seconds, 1),
        "operator_writes": _writes(audit.read()),
        "cores": stage.processes.since(before),
        **stage.rss(),
    }


async def at_rest(stage: Stage) -> Row:
    """What the operator writes while nothing happens; anything but the Lease is one too many."""
    await asyncio.sleep(stage.scale.settle_seconds)
    before, audit = stage.processes.read(), stage.audit()
    await asyncio.sleep(stage.scale.rest_seconds)
    writes = _writes(audit.read())
    return {
        "seconds": stage.scale.rest_seconds,
        "lease_renewals": writes.pop("update leases", 0),
        "other_writes": writes,
        "cores": stage.processes.since(before),
        **stage.rss(),
    }


async def under_changes(stage: Stage, seed: int) -> Row:
    """The latency from a change to the write that follows from it."""
    numbers = random.Random(seed).sample(range(stage.scale.services), stage.scale.changes)
    before, audit = stage.processes.read(), stage.audit()
    changes = await make(stage.client, stage.scale, numbers)
    requests: list[Request] = []
    found, missing = latencies(changes, requests)
    deadline = time.monotonic() + ANSWER_SECONDS
    while missing and time.monotonic() < deadline:
        await asyncio.sleep(_EVERY_SECONDS)
        requests += audit.read()
        found, missing = latencies(changes, requests)
    cores, seconds = stage.processes.since(before), time.monotonic() - before.at
    await heal(stage.client, changes)
    await await_serving(stage.client, stage.scale, seconds=stage.up_seconds, say=stage.say)
    rows = {kind.value: [latency for latency in found if latency.kind is kind] for kind in Kind} | {"all": found}
    return {
        "changes": len(changes),
        "unanswered": [asdict(change) for change in missing],
        "per_second": stage.scale.changes_per_second,
        "latency_ms": {
            name: summary([one.ms for one in some], [one.outer_ms for one in some]) for name, some in rows.items()
        },
        "first_writes": dict(Counter(f"{one.kind}: {one.write}" for one in found)),
        "samples_ms": {kind.value: sorted(round(one.ms, 2) for one in rows[kind]) for kind in Kind},
        "operator_cpu_ms_per_change": round(1000 * cores["operator"] * seconds / len(changes), 1),
        "operator_writes": _writes(requests),
        "cores": cores,
        **stage.rss(),
    }


async def cold_start(stage: Stage) -> Row:
    """A new process, after a clean end of the only one, until it has read everything and planned every service."""
    stage.operator.stop()
    operator = another(stage, "operator-b")
    audit = stage.audit()
    started = time.monotonic()
    operator.start()
    stage.lead(operator)
    await until(lambda: _has_planned(operator, stage.scale.services), seconds=300, what="all services to be planned")
    seconds = time.monotonic() - started
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": stage.processes.read().seconds["operator"],
        "writes": _writes(audit.read()),
        **stage.rss(),
    }


async def failover(stage: Stage, seed: int) -> Row:
    """SIGKILL of the leader, then changes that only another replica can answer; seconds from the kill."""
    standby = another(stage, "operator-c")
    standby.start()
    try:
        await until(lambda: bool(standby.samples()), seconds=300, what="the standby to have read everything")
        await asyncio.sleep(stage.scale.settle_seconds)
        audit, killed = stage.audit(), time.time()
        stage.operator.kill()
        stage.lead(standby)
        numbers = random.Random(seed).sample(range(stage.scale.services), min(FAILOVER_CHANGES, stage.scale.services))
        changes = [await change_child(stage.client, stage.scale, number) for number in numbers]
        return await _answered_after(killed, changes, audit)
    finally:
        standby.stop()


async def _answered_after(killed: float, changes: list[Change], audit: AuditTail) -> Row:
    requests: list[Request] = []
    missing = changes
    deadline = time.monotonic() + ANSWER_SECONDS
    while missing and time.monotonic() < deadline:
        await asyncio.sleep(_EVERY_SECONDS)
        requests += audit.read()
        _, missing = latencies(changes, requests)
    own = [request for request in requests if request.agent.startswith(OPERATOR)]
    leases = [request.answered for request in own if request.resource == "leases" and request.is_write]
    writes = [request.received for request in child_writes(own)]
    return {
        "lease_seconds": round(min(leases, default=float("nan")) - killed, 2),
        "first_write_seconds": round(min(writes, default=float("nan")) - killed, 2),
        "all_answered_seconds": round(_last_first(changes, requests) - killed, 2),
        "unanswered": [asdict(change) for change in missing],
        "changes": len(changes),
    }


def _last_first(changes: list[Change], requests: list[Request]) -> float:
    """When the last of the changes had its first answer."""
    services = {(change.namespace, change.service) for change in changes}
    first: dict[tuple[str, str], float] = {}
    for request in sorted(child_writes(requests), key=lambda request: request.received):
        first.setdefault((request.namespace, request.name.partition("-")[0]), request.received)
    return max((at for key, at in first.items() if key in services), default=float("nan"))


def another(stage: Stage, pod: str) -> Operator:
    """One more replica, not started."""
    return operator_for(stage.bed, pod)


def operator_for(bed: ControlPlane, pod: str) -> Operator:
    """It watches the whole cluster."""
    return Operator(bed, "proa-system", pod=pod, PROA_WATCH_NAMESPACES="", PROA_LOG_FORMAT="json")


async def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {seconds:.0f} s")
        await asyncio.sleep(_EVERY_SECONDS)


def summary(values: list[float], outer: list[float]) -> Row:
    """Percentiles in milliseconds."""
    if not values:
        return {"count": 0}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    inner = {name: round(percentile(values, share), 1) for name, share in shares.items()}
    return {"count": len(values), **inner, "outer_p99": round(percentile(outer, 0.99), 1)}


def _has_planned(operator: Operator, services: int) -> bool:
    found = operator.samples()
    planned = sum(value for name, value in found.items() if name.startswith("proa_operator_reconcile_seconds_count"))
    return planned >= services and found.get("proa_operator_queue_depth", 1.0) == 0.0


def _writes(requests: list[Request]) -> dict[str, int]:
    """Of the operator, by verb and resource, the most frequent first."""
    own = [request for request in requests if request.is_write and request.agent.startswith(OPERATOR)]
    return dict(Counter(f"{request.verb} {request.resource}" for request in own).most_common())
