"""Bad nodes are left, lost ones replaced, broken groups restarted; nothing that serves is interrupted for it."""

from __future__ import annotations

from typing import Any

import pytest
from proa_operator.names import Role
from proa_operator.plan.actions import Delete, Remember, Ungate
from proa_operator.plan.memo import Why
from proa_operator.plan.state import Taint

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import Pod, World, gpu_nodes, is_settled, settled_at

SHAPE: dict[str, Any] = {
    "accelerator": {"product": "MI300X", "gpusPerPod": 8},
    "pools": {"prefill": {"parallelism": {"dp": 8}}, "decode": {"nodesPerGroup": 2, "parallelism": {"dp": 16}}},
}
START_SECONDS = 26.0  # 20 s and what the random start-up adds at most


def installed(*, prefill: int = 2, decode: int = 1, num_nodes: int = 8) -> World:
    world = World(service(prefill=prefill, decode=decode, **SHAPE), nodes=gpu_nodes(num_nodes), watchers=[Invariants()])
    assert world.run(600, until=lambda: is_settled(world))
    return world


def pod_of(world: World, role: Role) -> Pod:
    return next(pod for pod in world.pods.values() if world.sets[pod.set_name].role is role)


BAD_NODES: dict[str, dict[str, Any]] = {
    "cordoned": {"is_unschedulable": True},
    "unhealthy taint": {"taints": (Taint(key="amd-gpu-unhealthy"),)},
    "repartitioning": {"taints": (Taint(key="amd-dcm", effect="NoExecute"),)},
    "a NIC is gone": {"allocatable": {"amd.com/gpu": 8, "amd.com/nic": 7}},
    "a GPU is gone": {"allocatable": {"amd.com/gpu": 7, "amd.com/nic": 8}},
    "validation failed": {"labels": {"amd.com/gpu.device-id": "74a1", "amd.com/rail-bandwidth": "failed"}},
}


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
@pytest.mark.parametrize("fields", BAD_NODES.values(), ids=BAD_NODES)
def test_groups_move_off_a_bad_node(fields: dict[str, Any], role: Role) -> None:
    world = installed()
    node = pod_of(world, role).node
    world.set_node(node, **fields)
    assert world.run(START_SECONDS + 60, until=lambda: is_settled(world) and not on_node(world, node))
    assert any(note.reason == Why.NODE and node in note.message for note in world.notes)
    world.run(60)
    assert not world.plan().actions


def on_node(world: World, node: str) -> list[str]:
    return [pod.name for pod in world.pods.values() if pod.node == node]


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_lost_node_is_replaced_while_its_pod_still_terminates(role: Role) -> None:
    world = installed()
    lost = pod_of(world, role)
    old = world.sets[lost.set_name]
    world.set_node(lost.node, is_ready=False)
    assert world.run(START_SECONDS + 15, until=lambda: replaced(world, old.name, role))
    world.run(400)
    assert lost.is_terminating
    assert old.name in world.sets, "the old group stays until its node is back"
    assert not any(isinstance(action, Delete) and action.kind == "StatefulSet" for action in world.log)
    start = len(world.log)
    world.set_node(lost.node, is_ready=True)
    assert world.run(200, until=lambda: is_settled(world))
    world.run(60)
    assert not world.plan().actions
    assert not any(isinstance(action, Ungate) for action in world.log[start:]), "it does not start only to be deleted"


def replaced(world: World, old: str, role: Role) -> bool:
    return any(
        owner.role is role and owner.name != old and owner.index > 0 and owner.has_served and owner.memo.drain is None
        for owner in world.sets.values()
    )


def test_node_that_is_back_at_once_changes_nothing_for_long() -> None:
    world = installed()
    lost = pod_of(world, Role.PREFILL)
    world.set_node(lost.node, is_ready=False)
    world.run(10)
    world.set_node(lost.node, is_ready=True)
    assert world.run(120, until=lambda: is_settled(world))
    assert lost.set_name in world.sets, "the group that serves outlives the one that was to replace it"


def test_node_that_is_gone_for_good() -> None:
    world = installed()
    lost = pod_of(world, Role.PREFILL)
    assert world.nodes is not None
    del world.nodes[lost.node]
    revision = world.sets[lost.set_name].revision
    world.run(200)
    world.pods.pop(lost.name)  # the pod garbage collector
    world._sync(world.sets[lost.set_name])
    assert world.run(200, until=lambda: settled_at(world, revision, {Role.PREFILL: 2, Role.DECODE: 1}))


def test_no_room_elsewhere_is_said_and_the_group_goes_on() -> None:
    world = installed(num_nodes=4)
    node = pod_of(world, Role.PREFILL).node
    world.set_node(node, is_unschedulable=True)
    world.run(300)
    assert pod_of(world, Role.PREFILL).is_routable
    found = {condition["type"]: condition for condition in world.status["conditions"]}
    assert found["CapacityAvailable"]["reason"] == "NoNodeFits"
    assert "needs a healthy node with 8 free amd.com/gpu" in found["CapacityAvailable"]["message"]
    assert found["Degraded"]["reason"] == "NodeUnhealthy"


def test_a_lost_pod_restarts_its_whole_group() -> None:
    world = installed()
    first = pod_of(world, Role.DECODE)
    uids = {pod.uid for pod in world.pods.values() if pod.set_name == first.set_name}
    world.lose_pod(first)
    assert world.run(120, until=lambda: is_settled(world))
    assert not uids & {pod.uid for pod in world.pods.values()}


def test_a_crash_of_one_pod_restarts_its_peers_but_a_single_pod_is_the_kubelets_matter() -> None:
    world = installed()
    decode, prefill = pod_of(world, Role.DECODE), pod_of(world, Role.PREFILL)
    world.crash(decode)
    world.crash(prefill)
    assert world.run(200, until=lambda: is_settled(world))
    assert world.pods[prefill.name] is prefill
    assert world.pods[decode.name] is not decode


def test_pauses_between_restarts_grow_to_ten_minutes() -> None:
    world = installed()
    name = pod_of(world, Role.DECODE).set_name

    def bound() -> list[Pod]:
        return [pod for pod in world.pods.values() if pod.set_name == name and pod.node and not pod.is_terminating]

    for _ in range(9):
        assert world.run(700, until=lambda: len(bound()) == 2)
        world.lose_pod(bound()[0])
    world.run(700)
    restarts = [
        action.memo.restart
        for action in world.log
        if isinstance(action, Remember) and action.memo.restart and not action.memo.members
    ]
    admitted = [
        action.memo.admitted_at
        for action in world.log
        if isinstance(action, Remember) and action.group == name and action.memo.members and action.memo.restart
    ]
    starts = sorted({at for at in admitted if at is not None})
    pauses = [round(at - restart.at) for restart, at in zip(restarts, starts, strict=True)]
    assert pauses[0] < 10
    for pause, least in zip(pauses[1:], [30, 60, 120, 240, 480, 600, 600, 600], strict=True):
        assert least <= pause <= least + 20, pauses


def test_stalled_worker_is_restarted_after_a_minute() -> None:
    world = installed()
    pod = pod_of(world, Role.PREFILL)
    pod.is_stalled = True
    begun = world.now
    assert world.run(200, until=lambda: any(note.reason == "Stalled" for note in world.notes))
    assert 60 <= world.now - begun + 20 <= 60 + 20 + world.period
    assert world.run(200, until=lambda: is_settled(world))
    assert pod.name in world.pods
    assert world.pods[pod.name] is not pod


def test_worker_that_waits_for_work_is_not_stalled() -> None:
    world = installed()
    for pod in world.pods.values():
        pod.is_stalled, pod.running, pod.leases = True, 0, 0
    world.run(500)
    assert not any(note.reason == "Stalled" for note in world.notes)
