"""From the cache to what the planner sees of one service. Pure: everything comes in by `Surroundings`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from proa_operator import names
from proa_operator.cluster.cache import Stored
from proa_operator.cluster.downloads import Progress
from proa_operator.cluster.facts import (
    GatewayFacts,
    GroupFacts,
    JobFacts,
    Membership,
    PodFacts,
    PoolFacts,
    RevisionFacts,
    ServiceFacts,
)
from proa_operator.cluster.kinds import POD
from proa_operator.cluster.read import Reader, memo_of
from proa_operator.cluster.workers import ProbeOutcome
from proa_operator.names import Role
from proa_operator.plan.state import (
    GatewayState,
    Group,
    JobState,
    NodeState,
    Observed,
    PodState,
    PoolState,
    ProbeResult,
    Refusal,
    Revision,
    RouteReason,
    WorkerLoad,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is known besides the service's own objects."""

    now: float
    nodes: Mapping[str, NodeState] | None = None
    unbound_pods: int = 0
    loads: Mapping[str, WorkerLoad] = field(default_factory=dict)
    """By uid of the pod."""
    probes: Mapping[str, ProbeOutcome] = field(default_factory=dict)
    """By uid of the pod."""
    refusals: tuple[Refusal, ...] = ()
    progress: Progress = field(default_factory=Progress)
    is_resync: bool = False


def observe(service: Stored, children: Iterable[Stored], around: Surroundings, reader: Reader) -> Observed:
    """RenderError when the stored service or one of its revisions is not readable by this version."""
    assert isinstance(service.facts, ServiceFacts)
    body, meta = service.facts.body, service.facts.body["metadata"]
    read = reader.service(service)
    own = [child for child in children if child.kind == POD.name or child.owner == service.uid]
    return Observed(
        service=read,
        uid=service.uid,
        generation=meta["generation"],
        now=around.now,
        pools=_pools(own),
        revisions=_revisions(own, service, reader),
        groups=_groups(own, around),
        nodes=around.nodes,
        unbound_pods=around.unbound_pods,
        job=next(iter(_jobs(own, around.progress)), None),
        gateway=next(iter(_gateways(own)), None),
        restart=(meta.get("annotations") or {}).get(names.RESTART_ANNOTATION, ""),
        present=frozenset((child.kind, child.name) for child in own),
        refusals=around.refusals,
        status=body.get("status") or {},
        is_resync=around.is_resync,
    )


def _pools(own: Iterable[Stored]) -> dict[Role, PoolState]:
    """A pool without a number was not given one yet, or someone took it out: it is written again."""
    return {
        Role(facts.role): PoolState(role=Role(facts.role), replicas=facts.replicas, declared=facts.declared)
        for child in own
        if isinstance(facts := child.facts, PoolFacts) and facts.replicas is not None
    }


def _revisions(own: Iterable[Stored], service: Stored, reader: Reader) -> tuple[Revision, ...]:
    found = [reader.revision(child, service) for child in own if isinstance(child.facts, RevisionFacts)]
    return tuple(sorted(found, key=lambda revision: (revision.number, revision.name)))


def _jobs(own: Iterable[Stored], progress: Progress) -> list[JobState]:
    return [
        JobState(
            is_done=facts.is_done,
            failed=facts.failed and (_last_words(own) or facts.failed),
            bytes_done=progress.bytes_done,
            bytes_total=progress.bytes_total,
        )
        for child in sorted(own, key=lambda child: -child.version)
        if isinstance(facts := child.facts, JobFacts)
    ]


def _last_words(own: Iterable[Stored]) -> str:
    """What the download said itself: it knows the fix, and its Job only the exit code."""
    newest = sorted(own, key=lambda child: -child.version)
    said = (child.facts.last_words for child in newest if isinstance(child.facts, PodFacts))
    return next((words for words in said if words), "")


def _gateways(own: Iterable[Stored]) -> list[GatewayState]:
    """With the first of its pods that waits, by name."""
    pods = {
        child.name: child.facts
        for child in own
        if isinstance(child.facts, PodFacts) and child.facts.component == names.Component.GATEWAY
    }
    name, waiting = min(((name, pod) for name, pod in pods.items() if pod.waiting_reason), default=("", PodFacts()))
    return [
        GatewayState(
            topology=facts.topology,
            num_ready=facts.num_ready,
            is_rolled=facts.is_rolled,
            waiting_pod=name,
            waiting_reason=waiting.waiting_reason,
            waiting_message=waiting.waiting_message,
        )
        for child in own
        if isinstance(facts := child.facts, GatewayFacts)
    ]


def _groups(own: list[Stored], around: Surroundings) -> tuple[Group, ...]:
    """Those with a StatefulSet, and those of which only pods are left."""
    pods: dict[Membership, list[tuple[Stored, PodFacts]]] = defaultdict(list)
    sets: dict[Membership, GroupFacts] = {}
    for child in own:
        if isinstance(child.facts, PodFacts) and child.facts.membership is not None:
            pods[child.facts.membership].append((child, child.facts))
        elif isinstance(child.facts, GroupFacts):
            sets[child.facts.membership] = child.facts
    members = sorted(pods.keys() | sets.keys(), key=lambda member: member.group)
    return tuple(_group(member, sets.get(member), pods.get(member, []), around) for member in members)


def _group(
    member: Membership, own: GroupFacts | None, pods: list[tuple[Stored, PodFacts]], around: Surroundings
) -> Group:
    states = [_pod(child, facts, around) for child, facts in sorted(pods, key=lambda pod: pod[1].ordinal)]
    return Group(
        name=member.group,
        revision=member.revision,
        role=Role(member.role),
        index=member.index,
        num_pods=own.num_pods if own is not None else len(states),
        created_at=own.created_at if own is not None else 0.0,
        is_deleting=own is None or own.is_deleting,
        is_drain_requested=own is not None and own.is_drain_requested,
        memo=memo_of(own.memo if own is not None else ""),
        pods=tuple(states),
    )


def _pod(child: Stored, facts: PodFacts, around: Surroundings) -> PodState:
    probe = around.probes.get(child.uid)
    is_current = probe is not None and probe.loaded_since == facts.loaded_since
    return PodState(
        uid=child.uid,
        name=child.name,
        ordinal=facts.ordinal,
        node=facts.node,
        is_gated=names.GANG_GATE in facts.gates,
        is_terminating=facts.is_terminating,
        is_failed=facts.phase == "Failed",
        is_loaded=bool(facts.loaded_since),
        is_routable=facts.routable == "True",
        route_reason=_route_reason(facts),
        unrouted_at=facts.unrouted_at,
        probe=probe.result if probe is not None and is_current else ProbeResult.UNKNOWN,
        probed_at=probe.ended_at if probe is not None and is_current else None,
        unschedulable_since=facts.unschedulable_since,
        unschedulable_message=facts.unschedulable_message,
        num_restarts=facts.num_restarts,
        waiting_reason=facts.waiting_reason,
        waiting_message=facts.waiting_message,
        load=around.loads.get(child.uid),
    )


def _route_reason(facts: PodFacts) -> RouteReason | None:
    """A reason that someone else wrote counts as none: the operator will write its own."""
    return RouteReason(facts.route_reason) if facts.route_reason in set(RouteReason) else None
