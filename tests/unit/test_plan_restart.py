"""The operator may die at any of its writes, and the status may be wiped: the end is the same."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import World, gpu_nodes, is_settled

ACCELERATOR = {"product": "MI300X", "gpusPerPod": 8}
PAIRS = {"prefill": {"nodesPerGroup": 2, "parallelism": {"dp": 16}}, "decode": {"parallelism": {"dp": 8}}}


def story(*, die_at: int | None = None, wipes: bool = False) -> World:
    """Install, roll out, and scale out while it rolls."""
    shape: dict[str, Any] = {"accelerator": ACCELERATOR, "pools": PAIRS}
    world = World(
        service(prefill=2, decode=1, model="bundled://one", **shape),
        nodes=gpu_nodes(12),
        watchers=[Invariants()],
        die_at=die_at,
    )
    if wipes:
        world.watchers.append(lambda world, action: world.status.clear() if action is None else None)
    assert world.run(1000, until=lambda: is_settled(world))
    world.change(service(prefill=2, decode=1, model="bundled://two", **shape))
    world.run(40)
    world.change(service(prefill=2, decode=2, model="bundled://two", **shape))
    assert world.run(3000, until=lambda: is_settled(world))
    world.run(60)
    return world


def end(world: World) -> dict[str, Any]:
    """All that must not depend on when the operator died; an index may be another one."""
    return {
        "groups": sorted((owner.revision, owner.role, owner.num_pods) for owner in world.sets.values()),
        "pods": sorted((pod.protocol, pod.ordinal, pod.is_routable) for pod in world.pods.values()),
        "revisions": sorted((known.name, known.number, known.failed, bool(known.available_at)) for known in
                            world.revisions.values()),
        "pools": sorted((pool.role, pool.replicas) for pool in world.pools.values()),
        "children": sorted(kind for kind, _ in world.present),
        "actions": world.plan().actions,
    }  # fmt: skip


NUM_ACTIONS = story().num_actions


@pytest.mark.parametrize("first", range(10))
def test_killed_at_each_action_in_turn(first: int) -> None:
    wanted = end(story())
    for die_at in range(first + 1, NUM_ACTIONS + 1, 10):
        assert end(story(die_at=die_at)) == wanted, f"killed at action {die_at}"


def test_status_wiped_at_every_event() -> None:
    wiped, kept = story(wipes=True), story()
    assert end(wiped) == end(kept)
    assert wiped.plan().status["pools"] == kept.plan().status["pools"]
