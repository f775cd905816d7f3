"""Who leaves first, and that nobody leaves with work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from proa_operator.names import Role
from proa_operator.plan.actions import Delete, DrainWorker, EventType, Remember, Route
from proa_operator.plan.memo import DrainPhase
from proa_operator.plan.plan import plan
from proa_operator.plan.state import Observed, RouteReason, StartPhase, WorkerLoad

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import World, is_settled

TIMEOUT = 120


def installed(*, prefill: int = 3, decode: int = 1, **fields: Any) -> World:
    world = World(
        service(prefill=prefill, decode=decode, drain={"timeoutSeconds": TIMEOUT}, **fields), watchers=[Invariants()]
    )
    assert world.run(600, until=lambda: is_settled(world))
    world.run(30)
    return world


def steps(world: World, start: int) -> list[str]:
    """Actions on groups and pods, by name."""
    found = []
    for action in world.log[start:]:
        match action:
            case Remember(memo=memo) if memo.drain is not None and memo.drain.idle_since is None:
                found.append(memo.drain.phase.value)
            case Route(is_routable=False):
                found.append("route off")
            case DrainWorker():
                found.append("tell worker")
            case Delete(kind="StatefulSet"):
                found.append("delete")
    return found


def scaled_in(world: World) -> int:
    start = len(world.log)
    world.change(service(prefill=2, decode=1, drain={"timeoutSeconds": TIMEOUT}))
    return start


def test_phases_in_order() -> None:
    world = installed()
    start = scaled_in(world)
    assert world.run(60, until=lambda: is_settled(world))
    assert steps(world, start) == ["Cordoned", "route off", "Draining", "tell worker", "delete"]


def test_a_worker_is_told_only_when_its_cordon_has_been_there_for_long_enough() -> None:
    """A hundred cordons take their time: the last one is written long after its drain began."""
    world = installed()
    world.write_seconds, told = 15.0, []
    world.watchers.append(lambda world, action: told.append(world.now) if isinstance(action, DrainWorker) else None)
    begun = world.now
    scaled_in(world)
    assert world.run(90, until=lambda: is_settled(world))
    assert [at - begun for at in told] == [world.write_seconds + world.settings.settle_seconds]


def test_the_victim_has_the_fewest_leases_and_requests() -> None:
    world = installed()
    leaders = [pod for pod in world.pods.values() if world.sets[pod.set_name].role is Role.PREFILL]
    for pod, (running, leases) in zip(leaders, [(5, 1), (1, 2), (3, 3)], strict=True):
        pod.running, pod.leases = running, leases
    scaled_in(world)
    world.run(1)
    leaving = [owner.name for owner in world.sets.values() if owner.memo.drain is not None]
    assert leaving == [leaders[1].set_name]


def test_a_lease_holds_the_group_until_it_is_fetched() -> None:
    world = installed()
    world.lease_seconds = 60
    scaled_in(world)
    begun = world.now
    assert world.run(TIMEOUT - 5, until=lambda: is_settled(world))
    assert world.now - begun > 60


def test_a_stuck_lease_is_cut_at_the_timeout_and_reported() -> None:
    world = installed()
    world.lease_seconds = 10_000
    scaled_in(world)
    begun = world.now
    assert world.run(400, until=lambda: is_settled(world))
    assert TIMEOUT <= world.now - begun <= TIMEOUT + world.period + 5
    note = next(note for note in world.notes if note.type is EventType.WARNING)
    assert note.reason == "DrainTimeout"
    assert "0 running and 0 waiting requests and 2 hand-offs are cut" in note.message


def test_a_long_request_holds_the_group() -> None:
    world = installed()
    world.drain_seconds = 70
    scaled_in(world)
    begun = world.now
    assert world.run(TIMEOUT - 1, until=lambda: is_settled(world))
    assert world.now - begun > 35


def draining(world: World) -> Observed:
    """The moment at which one group drains."""
    scaled_in(world)
    assert world.run(
        60, until=lambda: any(phase_of(owner.memo) is DrainPhase.DRAINING for owner in world.sets.values())
    )
    return world.observe()


def phase_of(memo: Any) -> DrainPhase | None:
    return None if memo.drain is None else memo.drain.phase


def with_load(observed: Observed, load: WorkerLoad | None, *, now: float) -> Observed:
    groups = tuple(
        replace(group, pods=tuple(replace(pod, load=load) for pod in group.pods)) if group.memo.drain else group
        for group in observed.groups
    )
    return replace(observed, groups=groups, now=now)


ANSWERS: dict[str, tuple[dict[str, Any] | None, float, bool]] = {
    "busy": ({"running": 1}, 30, False),
    "waiting": ({"waiting": 1}, 30, False),
    "idle": ({}, 30, True),
    "idle, as of before the cordon took effect": ({"seen_at": -30.0}, 30, False),
    "leases": ({"leases": 2}, 60, False),
    "no word on leases": ({"leases": None}, 25, False),
    "no word on leases, lease time over": ({"leases": None}, 60, True),
    "no answer": (None, 60, False),
    "no answer until the timeout": (None, TIMEOUT, True),
}


@pytest.mark.parametrize(("fields", "after", "goes"), ANSWERS.values(), ids=ANSWERS)
def test_what_a_worker_must_say_before_its_group_goes(fields: dict[str, Any] | None, after: float, goes: bool) -> None:
    world = installed()
    world.drain_seconds = 500
    observed = draining(world)
    since = next(group.memo.drain.since for group in observed.groups if group.memo.drain)
    load = None
    if fields is not None:
        seen_at = since + after + fields.get("seen_at", 0.0)
        load = WorkerLoad(**{**fields, "seen_at": seen_at})
    idle_at = observed if after < 40 else mark_idle(observed, since + 20)
    made = plan(with_load(idle_at, load, now=since + after), world.settings, world.renderer)
    assert any(isinstance(action, Delete) for action in made.actions) is goes


def test_an_idle_worker_that_drains_since_before_the_cordon_is_looked_at_again_soon() -> None:
    """Its next answer says the same, so it is no news and brings no plan about."""
    world = installed()
    world.drain_seconds = 500
    observed = draining(world)
    since = next(group.memo.drain.since for group in observed.groups if group.memo.drain)
    stale = WorkerLoad(phase=StartPhase.DRAINING, seen_at=since + 5)
    made = plan(with_load(observed, stale, now=since + 11), world.settings, world.renderer)
    assert made.wake_at is not None
    assert made.wake_at <= since + 16


def test_a_pod_that_was_held_back_is_cordoned_by_name() -> None:
    """The ticker makes each answer of a cordoned pod news; without the mark this drain would wait for its timeout."""
    world = installed()
    world.drain_seconds = 500
    observed = draining(world)
    held = tuple(
        replace(group, pods=tuple(replace(pod, route_reason=RouteReason.HELD) for pod in group.pods))
        if group.memo.drain
        else group
        for group in observed.groups
    )
    made = plan(replace(observed, groups=held), world.settings, world.renderer)
    marks = [action.reason for action in made.actions if isinstance(action, Route)]
    assert marks == [RouteReason.CORDONED]


def mark_idle(observed: Observed, at: float) -> Observed:
    groups = tuple(
        replace(group, memo=replace(group.memo, drain=replace(group.memo.drain, idle_since=at)))
        if group.memo.drain
        else group
        for group in observed.groups
    )
    return replace(observed, groups=groups)


def test_a_cordon_is_taken_back_when_the_group_is_wanted_again() -> None:
    world = installed()
    names = set(world.sets)
    scaled_in(world)
    world.run(2)
    world.change(service(prefill=3, decode=1, drain={"timeoutSeconds": TIMEOUT}))
    assert world.run(5, until=lambda: is_settled(world))
    assert set(world.sets) == names


def test_a_requested_drain_makes_room_first() -> None:
    world = installed()
    owner = next(owner for owner in world.sets.values() if owner.role is Role.DECODE)
    owner.is_drain_requested = True
    assert world.run(200, until=lambda: owner.name not in world.sets and is_settled(world))


def test_scale_to_zero_and_back() -> None:
    world = installed()
    world.change(service(prefill=0, decode=0, drain={"timeoutSeconds": TIMEOUT}))
    assert world.run(300, until=lambda: not world.sets)
    world.run(30)
    assert not world.plan().actions
    assert world.status["columns"]["prefill"] == "0/0"
    world.change(service(prefill=3, decode=1, drain={"timeoutSeconds": TIMEOUT}))
    assert world.run(300, until=lambda: is_settled(world))


def test_scale_in_of_100_groups_loses_nothing() -> None:
    world = World(service(prefill=60, decode=50), watchers=[Invariants()], load_steps=2, period=120.0)
    assert world.run(600, until=lambda: is_settled(world))
    world.change(service(prefill=5, decode=5))
    assert world.run(300, until=lambda: is_settled(world))
    assert not any(note.reason == "DrainTimeout" for note in world.notes)
