"""Readiness is routability: weights loaded, a probe transfer passed, not cordoned, a partner of the same revision."""

from __future__ import annotations

from dataclasses import replace

from proa_operator.api.service import Topology
from proa_operator.names import Role
from proa_operator.plan import topology
from proa_operator.plan.actions import EventType, Note, Probe, Remember, Route
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import PROVEN, Standing, is_proven
from proa_operator.plan.state import PodState, ProbeResult, RouteReason
from proa_operator.plan.step import Steps, Wake


def routes(situation: Situation) -> Steps:
    """Take out what does not serve any more, then let in and hold back by matched numbers.

    Decode is let in before prefill and taken out after it: the gateway chooses prefill first, and must then find a
    decode worker of the same revision.
    """
    for standing in situation.standings:
        yield from _unload(standing)
    routed = _routed(situation)
    ready = [standing for standing in situation.standings if standing.is_ready]
    for role in (Role.DECODE, Role.PREFILL):
        for standing in ready:
            if standing.group.role is role and standing.group.name in routed:
                yield from _let_in(situation, standing)
    for role in (Role.PREFILL, Role.DECODE):
        for standing in ready:
            if standing.group.role is role and standing.group.name not in routed:
                yield from _hold(standing)


def probes(situation: Situation) -> Steps:
    """One transfer at a time for each worker that is not proven, with a proven partner where there is one."""
    for revision in situation.revisions_with_groups():
        if situation.specs[revision].topology is Topology.DISAGGREGATED:
            yield from _probe_revision(situation, revision)


def _unload(standing: Standing) -> Steps:
    """What a probe once proved is void when the containers have started again."""
    if standing.is_up or standing.is_leaving:
        return
    for pod in standing.live:
        if pod.route_reason in PROVEN and (pod.is_routable or not pod.is_loaded):
            message = "weights are not loaded" if not pod.is_loaded else "a pod of its group is missing"
            yield Route(pod=pod.name, is_routable=False, reason=RouteReason.NOT_LOADED, message=message)


def _routed(situation: Situation) -> set[str]:
    """Names of the groups that serve; one revision alone serves with all it has."""
    ready: dict[str, list[Standing]] = {}
    for standing in situation.standings:
        if standing.is_ready:
            ready.setdefault(standing.group.revision, []).append(standing)
    if len(ready) == 1:
        return {standing.group.name for (groups,) in (ready.values(),) for standing in groups}
    return {name for revision, groups in ready.items() for name in _matched(situation, revision, groups)}


def _matched(situation: Situation, revision: str, groups: list[Standing]) -> list[str]:
    """Prefill on its way out, or broken, may still hand over to decode: it counts when decode is held back."""
    by_role = {role: [standing for standing in groups if standing.group.role is role] for role in Role}
    ready = {role: len(found) for role, found in by_role.items()}
    others = sum(standing.may_hand_over and not standing.is_ready for standing in situation.of(revision, Role.PREFILL))
    kind, desired = situation.specs[revision].topology, situation.desired_of(revision)
    numbers = topology.matched(kind, ready, desired)
    with_others = topology.matched(kind, {**ready, Role.PREFILL: ready[Role.PREFILL] + others}, desired)
    numbers[Role.DECODE] = with_others[Role.DECODE]
    return [
        standing.group.name
        for role, found in by_role.items()
        for standing in sorted(found, key=lambda standing: not standing.is_routable)[: numbers[role]]
    ]


def _let_in(situation: Situation, standing: Standing) -> Steps:
    for pod in standing.live:
        if not pod.is_routable:
            yield Route(pod=pod.name, is_routable=True, reason=RouteReason.ROUTABLE)
    memo = standing.group.memo
    if standing.is_routable and memo.served_at is None:
        yield Remember(group=standing.group.name, memo=replace(memo, served_at=situation.now))
        yield Note(type=EventType.NORMAL, reason="Routable", message=f"group {standing.group.name} serves")


def _hold(standing: Standing) -> Steps:
    message = "its revision has no partner for it yet"
    for pod in standing.live:
        if pod.is_routable or (pod.ordinal == 0 and pod.route_reason not in PROVEN):
            yield Route(pod=pod.name, is_routable=False, reason=RouteReason.HELD, message=message)


def _probe_revision(situation: Situation, revision: str) -> Steps:
    busy: set[str] = set()
    leaders = {role: _leaders(situation, revision, role) for role in Role}
    for role, other in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
        for pod in leaders[role]:
            if is_proven(pod) or pod.name in busy or pod.probe is ProbeResult.RUNNING:
                continue
            if pod.probe is ProbeResult.FAILED:
                yield from _failed(pod)
                retry_at = (pod.probed_at or situation.now) + situation.settings.probe_retry_seconds
                if retry_at > situation.now:
                    yield Wake(at=retry_at)
                    continue
            partner = _partner(leaders[other], busy, salt=situation.now)
            if partner is None:
                continue
            busy |= {pod.name, partner.name}
            prefill, decode = (pod, partner) if role is Role.PREFILL else (partner, pod)
            yield Probe(prefill_pod=prefill.name, decode_pod=decode.name)


def _leaders(situation: Situation, revision: str, role: Role) -> list[PodState]:
    return [
        standing.leader
        for standing in situation.of(revision, role)
        if standing.is_up
        and not (standing.is_leaving or standing.is_lost or situation.is_passed_over(standing))
        and standing.leader is not None
    ]


def _partner(leaders: list[PodState], busy: set[str], *, salt: float) -> PodState | None:
    """A proven one, else any: two that are both new may prove each other. Not the same one again after a failure."""
    free = [pod for pod in leaders if pod.name not in busy and pod.probe is not ProbeResult.RUNNING]
    proven = [pod for pod in free if is_proven(pod)]
    found = proven or free
    return found[int(salt) % len(found)] if found else None


def _failed(pod: PodState) -> Steps:
    if pod.route_reason is not RouteReason.PROBE_FAILED:
        message = "a probe transfer of KV blocks failed: compare kvTransfer.backend and the network of the two pods"
        yield Route(pod=pod.name, is_routable=False, reason=RouteReason.PROBE_FAILED, message=message)
