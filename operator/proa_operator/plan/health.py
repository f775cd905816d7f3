"""Restarts of whole groups: a group that lost a pod or stands still starts again with all of its pods."""

from __future__ import annotations

from dataclasses import replace

from proa_operator.plan.actions import Delete, EventType, Note, Remember
from proa_operator.plan.memo import GroupMemo, Restart, Why
from proa_operator.plan.settings import PlanSettings
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.step import Steps, Wake

_LOAD_SECONDS = 10.0  # a worker's load is asked for at least this often


def restarts(situation: Situation) -> Steps:
    """Begin the restarts that are due, and finish those under way.

    The memo names the pods to delete before the first of them is deleted, so a restart goes on after a crash of the
    operator. The new pods come back with the gang gate; `gang` holds it for the pause.
    """
    for standing in situation.standings:
        if standing.group.is_deleting:
            continue
        yield from _finish(standing)
        yield from _look_again(situation, standing)
        if not standing.is_leaving and (why := _broken(situation, standing)) is not None:
            yield from restart(situation, standing, *why)


def restart(situation: Situation, standing: Standing, why: Why, message: str) -> Steps:
    """Remember a restart of all pods of the group, and say so."""
    group = standing.group
    doomed = frozenset(pod.uid for pod in standing.live if not pod.is_gated)
    again = Restart(
        count=1 + _in_a_row(group.memo, situation.now, situation.settings), at=situation.now, why=why, doomed=doomed
    )
    yield Remember(group=group.name, memo=replace(group.memo, members=frozenset(), admitted_at=None, restart=again))
    yield Note(type=EventType.WARNING, reason=why.value, message=f"restarting group {group.name}: {message}")


def pause_until(memo: GroupMemo, settings: PlanSettings) -> float:
    """When the group may start again: at once, then after 30 s, and twice as long each time, 600 s at most."""
    again = memo.restart
    if again is None:
        return 0.0
    doublings = again.count - (1 if again.why is Why.UNSCHEDULABLE else 2)
    if doublings < 0:
        return again.at
    pause = settings.restart_first_seconds * 2.0 ** min(doublings, 30)
    return again.at + min(settings.restart_most_seconds, pause)


def _in_a_row(memo: GroupMemo, now: float, settings: PlanSettings) -> int:
    if memo.restart is None or now - memo.restart.at > settings.restart_forget_seconds:
        return 0
    return memo.restart.count


def _finish(standing: Standing) -> Steps:
    again = standing.group.memo.restart
    if again is not None:
        for pod in standing.live:
            if pod.uid in again.doomed:
                yield Delete(kind="Pod", name=pod.name, uid=pod.uid)


def _look_again(situation: Situation, standing: Standing) -> Steps:
    """A worker that stands still reports no news, so nothing else brings the next plan about."""
    load = standing.leader.load if standing.leader is not None else None
    if load is not None and load.stepped_at is not None and (load.running or load.waiting):
        due = load.stepped_at + situation.spec.health.stall_seconds
        yield Wake(at=max(due, situation.now + _LOAD_SECONDS))


def _broken(situation: Situation, standing: Standing) -> tuple[Why, str] | None:
    members = standing.group.memo.members
    missing = len(members) - sum(pod.uid in members for pod in standing.live)
    if missing:
        return Why.POD_LOST, f"{missing} of its {standing.group.num_pods} pods went away"
    if fresh := [pod.name for pod in standing.live if pod.is_gated and pod.uid not in members and standing.through]:
        return Why.POD_LOST, f"pod {fresh[0]} is new among pods that started without it"  # the memo was lost with it
    if standing.group.num_pods > 1:
        for pod in standing.through:
            if pod.is_failed or pod.num_restarts:
                return Why.POD_LOST, f"pod {pod.name} stopped, and its peers cannot go on without it"
    return _stalled(situation, standing)


def _stalled(situation: Situation, standing: Standing) -> tuple[Why, str] | None:
    """Work is there and no step was made. As of the last answer: a silent worker is a matter for its probes."""
    leader = standing.leader
    if leader is None or leader.load is None or not standing.is_up:
        return None
    load = leader.load
    idle = load.seen_at - load.stepped_at if load.stepped_at is not None else 0.0
    if idle < situation.spec.health.stall_seconds or not (load.waiting or load.running):
        return None
    return Why.STALLED, f"no step for {idle:.0f} s with {load.running} requests running and {load.waiting} waiting"
