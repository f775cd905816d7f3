"""A group does not hold its nodes for a partner that finds none."""

from __future__ import annotations

from typing import Any

import pytest
from proa_operator.names import Role
from proa_operator.plan.actions import Remember, Ungate

from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import Behaviour, World, gpu_nodes, is_settled
from tests.unit.test_plan_gang import wide

LONGEST_SECONDS = 30.0


def held(world: World, role: str) -> bool:
    return any(pod.node and role in pod.name for pod in world.pods.values())


def refuse(world: World, role: str) -> None:
    """The scheduler finds no node for the role's pods."""
    world.unschedulable |= {
        f"{owner.name}-{n}" for owner in world.sets.values() for n in range(3) if role in owner.name
    }


def half_held_seconds(world: World, seconds: float) -> float:
    """The longest time in which groups of only one role had nodes."""
    longest, since = 0.0, None
    for _ in range(round(seconds)):
        world.run(1.0)
        is_half = held(world, "prefill") is not held(world, "decode")
        since = (world.now if since is None else since) if is_half else None
        longest = max(longest, world.now - since if since is not None else 0.0)
    return longest


@pytest.mark.parametrize("waits", ["decode", "prefill"])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 3)])
@pytest.mark.parametrize("sees_nodes", [True, False])
def test_nodes_go_back_when_the_other_role_finds_none(waits: str, sizes: tuple[int, int], sees_nodes: bool) -> None:
    manifest = wide(prefill_nodes=sizes[0], decode_nodes=sizes[1])
    world = World(manifest, nodes=gpu_nodes(5) if sees_nodes else None, watchers=[Invariants()], seed=3)
    world.run(60, until=lambda: bool(world.sets))
    refuse(world, waits)
    assert half_held_seconds(world, 300.0) < LONGEST_SECONDS
    world.unschedulable.clear()
    assert world.run(900, until=lambda: is_settled(world))


def test_nodes_go_back_when_others_take_the_rest_before_the_partner_is_let_through() -> None:
    """Two of three nodes are taken by a neighbour between the two ungatings."""
    nodes = gpu_nodes(3)
    world, other = World(wide(prefill_nodes=1, decode_nodes=2), nodes=nodes), World(wide(), nodes=nodes)
    world.neighbours, other.neighbours = [other], [world]
    taken: list[str] = []

    def take(seen: World, action: object) -> None:
        if isinstance(action, Ungate) and "prefill" in action.group and not taken:
            other.run(5.0)
            for pod, node in zip([pod for pod in other.pods.values() if "prefill" in pod.name], nodes, strict=False):
                pod.node = node
                taken.append(pod.name)

    world.watchers.append(take)
    assert half_held_seconds(world, 120.0) < LONGEST_SECONDS
    assert len(taken) == 2
    for name in taken:
        other.pods[name].node = ""
    assert world.run(900, until=lambda: is_settled(world))


def test_a_group_that_has_served_keeps_its_nodes() -> None:
    world = World(wide(), nodes=gpu_nodes(5))
    assert world.run(100, until=lambda: is_settled(world))
    world.set_node("n4", is_ready=False)
    world.run(200)
    assert held(world, "prefill")
    restarts = [action for action in world.log if isinstance(action, Remember) and action.memo.restart is not None]
    assert not any("prefill" in action.group for action in restarts)


@pytest.mark.parametrize("is_cordoned", [True, False])
@pytest.mark.parametrize("wait_seconds", [10.0, 60.0])
def test_a_wait_that_begins_while_the_other_role_loads_has_its_grace_too(
    is_cordoned: bool, wait_seconds: float
) -> None:
    """A decode pod is lost after 400 s of loading: the group is replaced off a cordoned node, or starts again."""
    world = World(wide(), nodes=gpu_nodes(5), behaviours={"bundled://tiny": Behaviour(start_seconds=600.0)})
    world.run(400)
    lost = next(pod for pod in world.pods.values() if "decode" in pod.name)
    fields: dict[str, Any] = {"is_unschedulable": True} if is_cordoned else {"allocatable": {}, "capacity": {}}
    world.set_node(lost.node, **fields)
    world.lose_pod(lost)
    world.run(wait_seconds)
    assert held(world, "prefill") is (wait_seconds < LONGEST_SECONDS)
    mended = {name: getattr(gpu_nodes(1)["n0"], name) for name in fields}
    world.set_node(lost.node, **mended)
    assert world.run(1200, until=lambda: is_settled(world))
    restarts = [action for action in world.log if isinstance(action, Remember) and action.memo.restart is not None]
    assert any("prefill" in action.group for action in restarts) is (wait_seconds > LONGEST_SECONDS)


def test_two_halves_that_are_both_partly_bound_are_restarted_once() -> None:
    world = World(wide(), watchers=[Invariants()])
    world.run(60, until=lambda: bool(world.sets))
    world.unschedulable |= {f"{name}-1" for name in world.sets}
    world.run(20)
    restarts = [
        action.group for action in world.log if isinstance(action, Remember) and action.memo.restart is not None
    ]
    assert sorted(restarts) == sorted(world.sets)
    assert not held(world, "prefill")


def test_the_first_group_waits_for_the_pods_of_its_partner() -> None:
    """On a busy cluster they come later, and there is room for prefill alone: it is not let through."""
    world = World(wide(prefill_nodes=2, decode_nodes=3), nodes=gpu_nodes(4), watchers=[Invariants()])
    sync = world._sync
    world._sync = lambda owner: None if owner.role is Role.DECODE else sync(owner)  # type: ignore[method-assign]
    world.run(60)
    assert any("prefill" in name for name in world.pods)
    assert not held(world, "prefill")
    assert world.nodes is not None
    world.nodes.update(gpu_nodes(5))
    world._sync = sync  # type: ignore[method-assign]
    for owner in world.sets.values():
        sync(owner)
    assert world.run(100, until=lambda: is_settled(world))
