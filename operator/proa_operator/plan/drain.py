"""The way out of one group: Cordoned, Draining, deleted. Nothing that still works for a request is cut in time."""

from __future__ import annotations

from dataclasses import replace

from proa_operator.plan.actions import Delete, DrainWorker, EventType, Note, Remember, Route
from proa_operator.plan.memo import Drain, DrainPhase, Why
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import PROVEN, Standing
from proa_operator.plan.state import RouteReason, StartPhase, WorkerLoad
from proa_operator.plan.step import Steps, Wake

_LOAD_SECONDS = 2.0  # a worker that drains is asked for its load about every second


def begin(situation: Situation, standing: Standing, why: Why) -> Steps:
    """Cordon a group that may have work; a group that cannot have any goes at once."""
    group = standing.group
    text = f"{why.value}: {standing.ailment}" if why is Why.NODE else why.value
    if not standing.may_work:
        yield from _delete(standing, EventType.NORMAL, f"deleting group {group.name} without a drain ({text})")
        return
    drain = Drain(phase=DrainPhase.CORDONED, since=situation.now, why=why)
    yield Remember(group=group.name, memo=replace(group.memo, drain=drain))
    yield Note(type=EventType.NORMAL, reason=why.value, message=f"draining group {group.name} ({text})")
    yield from _cordon(standing)
    yield Wake(at=situation.now + situation.settings.settle_seconds)


def advance(situation: Situation) -> Steps:
    """The next step of every drain under way."""
    for standing in situation.standings:
        drain = standing.group.memo.drain
        if drain is not None and not standing.group.is_deleting:
            yield from _cordon(standing)
            yield from _advance(situation, standing, drain)


def _advance(situation: Situation, standing: Standing, drain: Drain) -> Steps:
    deadline = drain.since + situation.spec.drain.timeout_seconds
    told_at = _settled_at(situation, standing, drain)
    if not standing.may_work:
        yield from _delete(standing, EventType.NORMAL, f"deleting group {standing.group.name}: its workers are gone")
    elif situation.now >= deadline:
        yield from _delete(standing, EventType.WARNING, _cut(situation, standing))
    elif situation.now < told_at:
        yield Wake(at=min(told_at, deadline))
    elif drain.phase is DrainPhase.CORDONED:
        yield _remember(standing, replace(drain, phase=DrainPhase.DRAINING))
        yield from _tell(standing, deadline - situation.now)
    else:
        yield from _tell(standing, deadline - situation.now)
        yield from _wait(situation, standing, drain, deadline)


def _wait(situation: Situation, standing: Standing, drain: Drain, deadline: float) -> Steps:
    """Only answers that were given after the cordon took effect count."""
    told_at = _settled_at(situation, standing, drain)
    loads = _loads(standing)
    is_idle = bool(loads) and all(load.seen_at >= told_at and not (load.running or load.waiting) for load in loads)
    if not is_idle:
        is_news_due = any(load.seen_at < told_at for load in loads)  # an answer that says the same is no news
        yield Wake(at=min(deadline, situation.now + _LOAD_SECONDS) if is_news_due else deadline)
        return
    if drain.idle_since is None:
        drain = replace(drain, idle_since=situation.now)
        yield _remember(standing, drain)
    idle_since = situation.now if drain.idle_since is None else drain.idle_since
    leases = [load.leases for load in loads]
    expired_at = idle_since + situation.spec.kv_transfer.lease_seconds
    if all(number == 0 for number in leases) or (not any(leases) and situation.now >= expired_at):
        yield from _delete(standing, EventType.NORMAL, f"group {standing.group.name} is drained: deleting it")
    else:
        yield Wake(at=min(deadline, expired_at) if expired_at > situation.now else deadline)


def _settled_at(situation: Situation, standing: Standing, drain: Drain) -> float:
    """When the gateway sends nothing more: with many drains at a time the last cordon is written long after `since`."""
    if any(pod.is_routable for pod in standing.live):
        return situation.now + situation.settings.settle_seconds
    cordoned = [pod.unrouted_at for pod in standing.live if pod.unrouted_at is not None]
    return max([drain.since, *cordoned]) + situation.settings.settle_seconds


def _loads(standing: Standing) -> list[WorkerLoad]:
    return [pod.load for pod in standing.live if pod.load is not None]


def _cordon(standing: Standing) -> Steps:
    """A pod that was held back is marked too: only of a cordoned one each answer makes another plan."""
    for pod in standing.live:
        if pod.is_routable or pod.route_reason is RouteReason.HELD:
            reason = RouteReason.CORDONED if pod.route_reason in PROVEN else RouteReason.NOT_LOADED
            yield Route(pod=pod.name, is_routable=False, reason=reason, message="its group is being drained")


def _tell(standing: Standing, timeout_seconds: float) -> Steps:
    for pod in standing.live:
        if pod.load is not None and pod.load.phase is not StartPhase.DRAINING:
            yield DrainWorker(pod=pod.name, timeout_seconds=timeout_seconds)


def _remember(standing: Standing, drain: Drain) -> Remember:
    return Remember(group=standing.group.name, memo=replace(standing.group.memo, drain=drain))


def _cut(situation: Situation, standing: Standing) -> str:
    loads = _loads(standing)
    seconds = situation.spec.drain.timeout_seconds
    if not loads:
        return f"deleting group {standing.group.name}: its workers did not answer within the drain's {seconds} s"
    running, waiting = (sum(getattr(load, name) for load in loads) for name in ("running", "waiting"))
    leases = sum(load.leases or 0 for load in loads)
    return (
        f"deleting group {standing.group.name} after {seconds} s: {running} running and {waiting} waiting requests "
        f"and {leases} hand-offs are cut; raise drain.timeoutSeconds for longer answers"
    )


def _delete(standing: Standing, kind: EventType, message: str) -> Steps:
    """Its Service, PDB and policy go when its pods are gone, see `objects`. Told when done: it may be planned anew."""
    reason = "DrainTimeout" if kind is EventType.WARNING else "GroupDeleted"
    yield Delete(kind="StatefulSet", name=standing.group.name)
    yield Note(type=kind, reason=reason, message=message)
