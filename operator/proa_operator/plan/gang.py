"""All pods of a group start together or not at all: the gang gate comes off when there is room for the whole group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from proa_operator.api.service import Topology
from proa_operator.names import Role
from proa_operator.plan import halves, health
from proa_operator.plan.actions import Remember, Ungate
from proa_operator.plan.memo import Why
from proa_operator.plan.nodes import Rooms
from proa_operator.plan.renderer import key_of
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.step import Steps, Wake


def gates(situation: Situation, *, going: Collection[str] = ()) -> Steps:
    """Ungate what has room, finish what was begun, and take back what is only partly bound.

    `going` names groups that this plan deletes.
    """
    fresh: list[Standing] = []
    begun: list[Standing] = []
    returned = list(halves.give_back(situation, short_of_room))
    yield from returned
    again = {step.group for step in returned if isinstance(step, Remember)}
    for standing in situation.standings:
        if standing.is_leaving or standing.group.name in going or standing.group.name in again:
            continue
        if situation.is_passed_over(standing):
            yield from _take_back(situation, standing)
        elif is_waiting(standing):
            fresh.append(standing)
        elif any(pod.is_gated and pod.uid in standing.group.memo.members for pod in standing.live):
            begun.append(standing)
        else:
            yield from _take_back(situation, standing)
    rooms, starts = _rooms_of(situation, fresh + begun), _Starts(situation)
    for standing in begun:
        yield from _go_on(situation, standing, rooms, starts)
    startable = [standing for standing in fresh if _has_model(situation, standing)]
    yield from _admit(situation, sorted(startable, key=lambda standing: standing.group.index), rooms, starts)


class _Starts:
    """Groups of each role that may still be let through their gate."""

    def __init__(self, situation: Situation) -> None:
        started, through = Counter[Role](), Counter[Role]()
        for standing in situation.standings:  # what is left over from before a scale-in counts too
            started[standing.group.role] += standing.has_started
            through[standing.group.role] += any(not pod.is_gated for pod in standing.group.pods)
        self._left = {role: situation.budget(role) - started[role] for role in Role}
        self._left_with_lost = {role: situation.budget(role) - through[role] for role in Role}

    def has(self, role: Role) -> bool:
        """Whether one more fits into the budget."""
        return self._left[role] > 0

    def take(self, role: Role) -> bool:
        """Let one through; True when it takes the place of one on a lost node."""
        self._left[role] -= 1
        self._left_with_lost[role] -= 1
        return self._left_with_lost[role] < 0


def is_waiting(standing: Standing) -> bool:
    """All of its pods exist, gated, and none of them was let through yet."""
    group = standing.group
    return len(standing.live) == group.num_pods and all(
        pod.is_gated and pod.uid not in group.memo.members for pod in standing.live
    )


def is_model_ready(situation: Situation) -> bool:
    """No pod holds a GPU while the model is still on its way."""
    observed = situation.observed
    jobs = situation.renderer.download(observed)
    is_there = all(key_of(job) in observed.present for job in jobs)
    return not jobs or (is_there and observed.job is not None and observed.job.is_done)


def _has_model(situation: Situation, standing: Standing) -> bool:
    """An older revision's model is there already."""
    own = situation.specs[standing.group.revision].model.uri
    return own != situation.spec.model.uri or is_model_ready(situation)


def short_of_room(situation: Situation) -> list[Standing]:
    """Groups that wait for nodes and nothing else."""
    waiting = [
        standing
        for standing in situation.standings
        if not standing.is_leaving
        and is_waiting(standing)
        and health.pause_until(standing.group.memo, situation.settings) <= situation.now
    ]
    rooms = _rooms_of(situation, waiting)
    return [
        standing
        for standing in waiting
        if (room := rooms.get(standing.group.revision)) is not None
        and not room.has(*_sizes(situation, standing, waiting))
    ]


def _go_on(situation: Situation, standing: Standing, rooms: dict[str, Rooms], starts: _Starts) -> Steps:
    """Let the rest of an admitted group through. Before its first pod the budget may have become too small for it.

    A lost node may be back, with a group on it that did not count.
    """
    role = standing.group.role
    if standing.through:
        yield _ungate(standing, rooms)
    elif starts.has(role):
        yield _ungate(standing, rooms, replaces_lost=starts.take(role))
    else:
        yield Wake(at=situation.now + situation.settings.regate_seconds)


def _admit(situation: Situation, fresh: list[Standing], rooms: dict[str, Rooms], starts: _Starts) -> Steps:
    for standing in fresh:
        group, partners = standing.group, _partners(situation, standing)
        if partners and not any(partner in fresh for partner in partners):
            continue  # its partner's pods are not there yet: their coming makes the next plan
        start_at = _start_at(situation, standing, fresh)
        if start_at > situation.now:
            yield Wake(at=start_at)
            continue
        room = rooms.get(group.revision)
        if not starts.has(group.role) or (room is not None and not room.has(*_sizes(situation, standing, fresh))):
            yield Wake(at=situation.now + situation.settings.regate_seconds)
            continue
        uids = frozenset(pod.uid for pod in standing.live)
        yield Remember(group=group.name, memo=replace(group.memo, members=uids, admitted_at=situation.now))
        yield _ungate(standing, rooms, replaces_lost=starts.take(group.role))


def _start_at(situation: Situation, standing: Standing, fresh: list[Standing]) -> float:
    """After its pause, and that of its partner where it cannot start without one."""
    pauses = [
        health.pause_until(one.group.memo, situation.settings) for one in _partners(situation, standing) if one in fresh
    ]
    return max(health.pause_until(standing.group.memo, situation.settings), min(pauses, default=0.0))


def _sizes(situation: Situation, standing: Standing, fresh: list[Standing]) -> list[int]:
    """The first group of a role waits until one of the other role fits beside it: half a pair serves nobody."""
    partners = [partner for partner in _partners(situation, standing) if partner in fresh]
    return [one.group.num_pods for one in (standing, *partners)][:2]


def _partners(situation: Situation, standing: Standing) -> list[Standing]:
    """Groups of the other role of which one has to start with it; none where one has started already."""
    group = standing.group
    if situation.specs[group.revision].topology is Topology.AGGREGATED:
        return []
    found = situation.of(group.revision, halves.OTHER[group.role])
    if any(map(_is_through, found)):
        return []
    return [partner for partner in found if not partner.is_leaving]


def _is_through(standing: Standing) -> bool:
    """By its memo, or where that is lost by its pods."""
    return bool(standing.group.memo.members or standing.through)


def _rooms_of(situation: Situation, fresh: list[Standing]) -> dict[str, Rooms]:
    """Room by revision; empty where nodes cannot be seen: then the scheduler is the only judge."""
    nodes = situation.observed.nodes
    if nodes is None or not fresh:
        return {}
    own = sum(
        not pod.is_gated and not pod.node and pod.unschedulable_since is None
        for standing in situation.standings
        for pod in standing.live
    )
    taken = own + situation.observed.unbound_pods
    return {
        revision: Rooms(nodes.values(), situation.demand(revision), situation.settings, taken=taken)
        for revision in {standing.group.revision for standing in fresh}
    }


def _ungate(standing: Standing, rooms: dict[str, Rooms], *, replaces_lost: bool = False) -> Ungate:
    """Its pods take room from those that come later in this plan.

    The scheduler knows taints and cordons by itself, but not which node has a broken device.
    """
    pods = tuple(pod.name for pod in standing.live if pod.is_gated)
    for taken in rooms.values():
        taken.take(len(pods))
    room = rooms.get(standing.group.revision)
    avoid = () if room is None else tuple(sorted(room.sick))
    return Ungate(group=standing.group.name, pods=pods, avoid=avoid, replaces_lost=replaces_lost)


def _take_back(situation: Situation, standing: Standing) -> Steps:
    """A group that waits for its last pods holds the nodes of its first ones."""
    bound = [pod for pod in standing.through if pod.node]
    unbound = [pod for pod in standing.through if not pod.node]
    stuck = [pod.unschedulable_since for pod in unbound if pod.unschedulable_since is not None]
    if not bound or not stuck:
        return
    until = min(stuck) + situation.settings.regate_seconds
    if until > situation.now:
        yield Wake(at=until)
        return
    message = f"only {len(bound)} of its {standing.group.num_pods} pods found a node; they are gated again"
    yield from health.restart(situation, standing, Why.UNSCHEDULABLE, message)
