"""A group over several nodes whose memo is lost is judged by its pods."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from proa_operator.names import Role
from proa_operator.plan.actions import Remember, Ungate
from proa_operator.plan.memo import NOTHING, Why

from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import Pod, World, gpu_nodes, is_settled
from tests.unit.test_plan_gang import restarted, wide


def decode_pods(world: World) -> list[Pod]:
    return [pod for pod in world.pods.values() if world.sets[pod.set_name].role is Role.DECODE]


def wipe(world: World) -> None:
    for owner in world.sets.values():
        owner.memo = NOTHING
    world.status = {}


LOSSES: dict[str, Callable[[World, Pod], None]] = {"a pod is lost": World.lose_pod, "a pod crashes": World.crash}


@pytest.mark.parametrize("ordinal", range(3))
@pytest.mark.parametrize("hurt", LOSSES.values(), ids=LOSSES)
def test_a_pod_that_stops_restarts_the_group(hurt: Callable[[World, Pod], None], ordinal: int) -> None:
    world = World(wide(), nodes=gpu_nodes(5), watchers=[Invariants()])
    assert world.run(100, until=lambda: is_settled(world))
    before = {pod.uid for pod in decode_pods(world)}
    wipe(world)
    hurt(world, next(pod for pod in decode_pods(world) if pod.ordinal == ordinal))
    assert world.run(200, until=lambda: restarted(world, Why.POD_LOST))
    assert world.run(200, until=lambda: is_settled(world))
    assert not before & {pod.uid for pod in decode_pods(world)}
    counts = [action.memo.restart.count for action in world.log if isinstance(action, Remember) and action.memo.restart]
    assert set(counts) == {1}, "one restart, not one for each look"


def test_a_group_whose_pods_all_go_on_is_left_alone() -> None:
    world = World(wide(), nodes=gpu_nodes(5), watchers=[Invariants()])
    assert world.run(100, until=lambda: is_settled(world))
    wipe(world)
    before = set(world.pods)
    world.run(100)
    assert not restarted(world, Why.POD_LOST)
    assert set(world.pods) == before
    assert is_settled(world)


def test_a_partly_bound_group_gives_its_nodes_back() -> None:
    world = World(wide(), nodes=gpu_nodes(5))
    world.unschedulable |= {f"{name}-2" for name in group_names(world)}
    assert world.run(60, until=lambda: any(pod.unschedulable_since for pod in world.pods.values()))
    wipe(world)
    assert world.run(60, until=lambda: restarted(world, Why.UNSCHEDULABLE))
    world.run(4)
    assert not any(pod.node for pod in decode_pods(world))
    world.unschedulable.clear()
    assert world.run(200, until=lambda: is_settled(world))


def group_names(world: World) -> list[str]:
    world.run(60, until=lambda: len(world.sets) == 2)
    assert not any(isinstance(action, Ungate) for action in world.log)
    return [owner.name for owner in world.sets.values()]
