"""A revision that is passed over before it serves does not begin to: two revisions share the pools, never three."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from proa_operator.names import Role
from proa_operator.plan.actions import Action, Delete, Probe, Remember, Ungate
from proa_operator.plan.memo import NOTHING
from proa_operator.plan.situation import Situation
from proa_operator.plan.state import ProbeResult

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import Pod, World, is_settled


def pods_of_second(world: World) -> list[Pod]:
    second = next(name for name, known in world.revisions.items() if known.number == 2)
    return [pod for pod in world.pods.values() if world.sets[pod.set_name].revision == second]


def gate(world: World, pod: Pod) -> None:
    pod.is_gated, pod.node, pod.is_loaded = True, "", False
    world.sets[pod.set_name].memo = NOTHING


def unprove(world: World, pod: Pod) -> None:
    pod.is_loaded, pod.is_routable, pod.route_reason, pod.probe = True, False, None, ProbeResult.UNKNOWN


def passed_over(back_to: Callable[[World, Pod], None]) -> World:
    """The second revision stands as `back_to` puts it when the third is asked for and an old group loses a pod."""
    world = World(service(prefill=3, decode=3, model="bundled://one"), watchers=[Invariants()])
    assert world.run(600, until=lambda: is_settled(world))
    world.change(service(prefill=3, decode=3, model="bundled://two"))
    assert world.run(60, until=lambda: len(world.revisions) == 2 and len(pods_of_second(world)) == 2)
    for pod in pods_of_second(world):
        back_to(world, pod)
    first = next(name for name, known in world.revisions.items() if known.number == 1)
    old = [owner for owner in world.sets.values() if owner.revision == first and owner.role is Role.DECODE]
    world.lose_pod(world.pods_of(old[0])[0])
    world.change(service(prefill=3, decode=3, model="bundled://three"))
    return world


def starts(world: World) -> list[Action]:
    """What lets groups of the second revision get further."""
    second = {pod.name for pod in pods_of_second(world)}
    found = [action for action in world.plan().actions if isinstance(action, Ungate | Probe)]
    named = [(action, action.pods if isinstance(action, Ungate) else (action.prefill_pod,)) for action in found]
    return [action for action, pods in named if second & set(pods)]


@pytest.mark.parametrize("back_to", [gate, unprove])
def test_it_neither_starts_nor_is_probed(back_to: Callable[[World, Pod], None]) -> None:
    world = passed_over(back_to)
    plan = world.plan().actions
    assert any(isinstance(action, Remember) and action.memo.restart for action in plan), "a plan in which no group goes"
    assert not any(isinstance(action, Delete) and action.kind == "StatefulSet" for action in plan)
    assert not starts(world)
    assert world.run(2000, until=lambda: is_settled(world))


@pytest.mark.parametrize("back_to", [gate, unprove])
def test_a_planner_that_passes_nothing_over_is_found_out(
    back_to: Callable[[World, Pod], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Situation, "is_passed_over", lambda self, standing: False)
    assert starts(passed_over(back_to))


def test_groups_that_serve_come_back_whatever_is_asked_for() -> None:
    world = passed_over(unprove)
    lost = next(pod for pod in world.pods.values() if pod.is_terminating)
    world.log.clear()
    assert world.run(60, until=lambda: any(isinstance(one, Ungate) and lost.name in one.pods for one in world.log))
