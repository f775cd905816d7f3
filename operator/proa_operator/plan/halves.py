"""Half a pair serves nobody: groups whose partners find no nodes give theirs back, for others or for a later try."""

from __future__ import annotations

from collections.abc import Callable

from proa_operator.api.service import Topology
from proa_operator.names import Role
from proa_operator.plan import health
from proa_operator.plan.memo import Why
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.step import Steps, Wake

OTHER = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}


def give_back(situation: Situation, find_short: Callable[[Situation], list[Standing]]) -> Steps:
    """Restart what of a revision has started while all groups of its other role wait for nodes.

    `find_short` finds the gated groups that wait for nodes. A group that has served keeps its nodes: it holds loaded
    weights, and its partner's nodes may be back any moment.
    """
    for revision in situation.revisions_with_groups():
        if situation.specs[revision].topology is Topology.DISAGGREGATED:
            yield from _give_back(situation, revision, find_short)


def _give_back(situation: Situation, revision: str, find_short: Callable[[Situation], list[Standing]]) -> Steps:
    for role in Role:
        halves = [standing for standing in situation.of(revision, role) if _is_held_for_nothing(standing)]
        partners = [partner for partner in situation.of(revision, OTHER[role]) if not partner.is_leaving]
        if not halves or not partners:
            continue
        short = {standing.group.name for standing in find_short(situation)}
        if all(_waits(situation, partner, short) for partner in partners):
            yield from _return(situation, halves, partners)
            return


def _is_held_for_nothing(standing: Standing) -> bool:
    memo = standing.group.memo
    has_nodes = any(pod.node for pod in standing.live)
    return has_nodes and not standing.is_leaving and memo.admitted_at is not None and memo.served_at is None


def _waits(situation: Situation, partner: Standing, short: set[str]) -> bool:
    """It is short of room, was let through and found too few nodes, or pauses because of that."""
    again = partner.group.memo.restart
    is_paused = health.pause_until(partner.group.memo, situation.settings) > situation.now
    if partner.group.name in short or (again is not None and again.why is Why.UNSCHEDULABLE and is_paused):
        return True
    return _stuck_since(partner) is not None


def _stuck_since(partner: Standing) -> float | None:
    """When the scheduler first refused a pod of it that has no node yet."""
    times = [pod.unschedulable_since for pod in partner.live if pod.unschedulable_since is not None and not pod.node]
    return min(times, default=None)


def _waits_since(situation: Situation, partner: Standing) -> float:
    """The earliest moment at which its wait can have begun: halves load for minutes before a partner loses its nodes.

    A restart because it found no nodes is a part of the wait.
    """
    again = partner.group.memo.restart
    is_same_wait = again is not None and again.why is Why.UNSCHEDULABLE
    restarted = 0.0 if is_same_wait else health.pause_until(partner.group.memo, situation.settings)
    return max(partner.group.created_at, restarted, _stuck_since(partner) or 0.0)


def _return(situation: Situation, halves: list[Standing], partners: list[Standing]) -> Steps:
    """Those of the partners that are through their gate wait in the scheduler: they are gated again as well."""
    held = [standing.group.memo.admitted_at or 0.0 for standing in halves]
    waits = [_waits_since(situation, partner) for partner in partners]
    until = max(held + waits) + situation.settings.regate_seconds
    if until > situation.now:
        yield Wake(at=until)
        return
    through = [partner for partner in partners if partner.group.memo.members]
    for standing in halves + through:
        message = "no group of the other role finds nodes, and half a pair serves nobody; its pods are gated again"
        yield from health.restart(situation, standing, Why.UNSCHEDULABLE, message)
