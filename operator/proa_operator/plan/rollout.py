"""Groups come and go: one revision grows within the surge, and what must leave leaves when pair capacity allows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from proa_operator.names import Role
from proa_operator.plan import topology
from proa_operator.plan.actions import Apply, Remember
from proa_operator.plan.drain import begin
from proa_operator.plan.memo import DrainPhase, Why
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.step import Steps


def grow(situation: Situation) -> Steps:
    """Take cordoned groups of the growing revision back, then create the missing ones as far as the surge lets."""
    for role, wanted in situation.wanted.items():
        missing = wanted - len(_keepers(situation, role))
        for standing in _cordoned(situation, role)[: max(0, missing)]:
            missing -= 1
            yield Remember(group=standing.group.name, memo=replace(standing.group.memo, drain=None))
        for index in _free_indices(situation, role, min(missing, _room(situation, role))):
            yield Apply(
                objects=situation.renderer.group(
                    situation.observed,
                    situation.specs[situation.filling],
                    revision=situation.filling,
                    role=role,
                    index=index,
                )
            )


def shrink(situation: Situation) -> Steps:
    """Start the drains that lower no pair capacity below the floor."""
    ledger = Ledger(situation)
    for why, standing in sorted(_leavers(situation), key=lambda leaver: _order(leaver[1])):
        if ledger.may_go(standing):
            ledger.remove(standing)
            yield from begin(situation, standing, why)


def reason_to_leave(situation: Situation, standing: Standing) -> Why | None:
    """Why a group has no future, be it leaving already or not; None for one to keep."""
    group = standing.group
    if group.revision != situation.growing and not situation.is_paused:
        return Why.ROLLBACK if group.revision == situation.asked else Why.ROLLOUT
    if not situation.wanted.get(group.role):
        return Why.SCALE_IN
    if group.is_drain_requested:
        return Why.REQUESTED
    return Why.NODE if standing.ailment and not standing.is_lost else None


class Ledger:
    """Pair capacity while drains are handed out, in two books.

    One counts what is ready now. The other also counts groups that served and crashed: they will be back, so their
    capacity is not free to be given away. A group may go if both books stay above the floor or do not change.
    """

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._ready = {standing.group.name: standing for standing in situation.standings if standing.is_ready}
        self._counted = {standing.group.name: standing for standing in situation.standings if standing.is_counted}
        growing, rollout = situation.specs[situation.growing], situation.spec.rollout
        self._floor = topology.floor(growing.topology, situation.wanted, rollout.max_unavailable_groups)

    def may_go(self, standing: Standing) -> bool:
        """Whether the group may leave now."""
        return not self._strands_prefill(standing) and not self._strands_gateway(standing) and self._keeps(standing)

    def remove(self, standing: Standing) -> None:
        """It leaves."""
        for book in (self._ready, self._counted):
            book.pop(standing.group.name, None)

    def _keeps(self, leaver: Standing) -> bool:
        for book in (self._ready, self._counted):
            before = self._situation.capacity(book.values())
            after = self._situation.capacity(standing for standing in book.values() if standing is not leaver)
            if after < self._floor and after != before:
                return False
        return True

    def _strands_prefill(self, leaver: Standing) -> bool:
        """The last decode group of a revision outlasts its prefill groups, whose requests can go nowhere else."""
        revision = leaver.group.revision
        if leaver.group.role is Role.PREFILL or not leaver.is_routable:
            return False
        if not any(standing.may_hand_over for standing in self._situation.of(revision, Role.PREFILL)):
            return False
        others = (standing for standing in self._ready.values() if standing is not leaver and standing.is_routable)
        return not any(other.group.revision == revision and other.group.role is Role.DECODE for other in others)

    def _strands_gateway(self, leaver: Standing) -> bool:
        """After a change of topology the last groups of the old one stay until every gateway knows the new one."""
        specs, gateway = self._situation.specs, self._situation.observed.gateway
        old = specs[leaver.group.revision].topology
        if old is specs[self._situation.growing].topology or not leaver.is_ready:
            return False
        if gateway is not None and gateway.is_rolled and gateway.topology is not old:
            return False
        left = [other for other in self._ready.values() if other is not leaver]
        return not self._situation.capacity(other for other in left if specs[other.group.revision].topology is old)


def _room(situation: Situation, role: Role) -> int:
    """Groups that may be added within the surge."""
    holding = sum(standing.holds_devices for standing in situation.standings if standing.group.role is role)
    return situation.budget(role) - holding


def _keepers(situation: Situation, role: Role) -> list[Standing]:
    """Groups that stay; a lost one is replaced by another index and may yet come back."""
    return [
        standing
        for standing in _of_role(situation, role)
        if not standing.is_leaving and not standing.is_lost and reason_to_leave(situation, standing) is None
    ]


def _of_role(situation: Situation, role: Role) -> list[Standing]:
    """Of the growing revision. While paused, of the failed one too, if it serves: else a person is to look at it."""
    if not situation.is_paused:
        return situation.of(situation.growing, role)
    return [
        standing
        for standing in situation.standings
        if standing.group.role is role and (standing.is_counted or standing.group.revision == situation.filling)
    ]


def _cordoned(situation: Situation, role: Role) -> list[Standing]:
    """Groups whose drain can be taken back: their workers have not been told yet."""
    return [
        standing
        for standing in _of_role(situation, role)
        if standing.group.memo.drain is not None
        and standing.group.memo.drain.phase is DrainPhase.CORDONED
        and not standing.group.is_deleting
        and not standing.is_lost
        and reason_to_leave(situation, standing) is None
    ]


def _free_indices(situation: Situation, role: Role, number: int) -> Iterator[int]:
    used = {standing.group.index for standing in situation.of(situation.filling, role)}
    index = 0
    for _ in range(number):
        while index in used:
            index += 1
        yield index
        index += 1


def _leavers(situation: Situation) -> Iterator[tuple[Why, Standing]]:
    for standing in situation.standings:
        if not standing.is_leaving and (why := reason_to_leave(situation, standing)) is not None:
            yield why, standing
    for standing in _in_the_way(situation):
        yield Why.ROLLBACK, standing
    for role, wanted in situation.wanted.items():
        keepers = sorted(_keepers(situation, role), key=_order)
        for standing in keepers[: max(0, len(keepers) - wanted - _spared(situation, keepers))]:
            yield Why.SCALE_IN, standing


def _spared(situation: Situation, keepers: list[Standing]) -> int:
    """Groups beyond the wanted number that a pause leaves, as the surge made them: failed ones that serve."""
    if not situation.is_paused:
        return 0
    failed = sum(standing.group.revision != situation.filling for standing in keepers)
    return min(situation.spec.rollout.max_surge_groups, failed)


def _in_the_way(situation: Situation) -> Iterator[Standing]:
    """While paused: groups that never served and hold the room which one on a bad node needs to move."""
    for standing in situation.standings if situation.is_paused else ():
        role, is_stuck = standing.group.role, standing.group.revision != situation.filling and not standing.is_counted
        ailing = any(other.ailment and other.group.role is role and other.is_ready for other in situation.standings)
        if is_stuck and ailing and not standing.is_leaving and _room(situation, role) <= 0:
            yield standing


def _order(standing: Standing) -> tuple[bool, bool, int, str]:
    """Victims first: what does not serve, then the fewest leased hand-offs and running requests."""
    loads = [pod.load for pod in standing.live if pod.load is not None]
    work = sum((load.leases or 0) + load.running + load.waiting for load in loads)
    return standing.is_counted, standing.is_ready, work, standing.group.name
