"""Groups start whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from proa_operator.names import Role
from proa_operator.plan.actions import Delete, Remember, Ungate
from proa_operator.plan.memo import NOTHING, GroupMemo, Restart, Why
from proa_operator.plan.state import JobState

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import World, gpu_nodes, is_settled


def wide(*, prefill_nodes: int = 2, decode_nodes: int = 3, **fields: Any) -> Any:
    return service(
        prefill=1,
        decode=1,
        accelerator={"product": "MI300X", "gpusPerPod": 8},
        pools={
            "prefill": {"nodesPerGroup": prefill_nodes, "parallelism": {"dp": 8 * prefill_nodes}},
            "decode": {"nodesPerGroup": decode_nodes, "parallelism": {"dp": 8 * decode_nodes}},
        },
        **fields,
    )


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4])
def test_nothing_starts_until_a_whole_pair_fits(num_nodes: int) -> None:
    world = World(wide(), nodes=gpu_nodes(num_nodes), watchers=[Invariants()])
    world.run(200)
    assert len(world.pods) == 5
    assert all(pod.is_gated for pod in world.pods.values())
    assert not world.plan().actions
    capacity = next(found for found in world.status["conditions"] if found["type"] == "CapacityAvailable")
    assert capacity["status"] == "False"
    assert world.nodes is not None
    world.nodes.update(gpu_nodes(5))
    assert world.run(100, until=lambda: is_settled(world))


def test_all_pods_of_a_group_are_ungated_in_one_action() -> None:
    world = World(wide(), nodes=gpu_nodes(5))
    assert world.run(100, until=lambda: is_settled(world))
    assert sorted(len(action.pods) for action in world.log if isinstance(action, Ungate)) == [2, 3]


def test_an_interrupted_ungating_is_finished() -> None:
    world = World(wide(), nodes=gpu_nodes(5))
    world.run(100, until=lambda: any(isinstance(action, Ungate) for action in world.log))
    for pod in list(world.pods.values())[::2]:
        pod.is_gated, pod.node, pod.is_loaded = True, "", False
    assert world.run(200, until=lambda: is_settled(world))


def test_a_begun_group_takes_its_room_from_fresh_ones_of_the_same_plan() -> None:
    accelerator = {"product": "MI300X", "gpusPerPod": 8}
    pools = {"prefill": {"parallelism": {"dp": 8}}, "decode": {"parallelism": {"dp": 8}}}
    world = World(service(prefill=1, decode=3, accelerator=accelerator, pools=pools), nodes=gpu_nodes(4))
    assert world.run(400, until=lambda: is_settled(world))
    begun, fresh = [pod for pod in world.pods.values() if "decode" in pod.name][1:]
    for pod in (begun, fresh):
        pod.is_gated, pod.node, pod.is_loaded, pod.is_routable = True, "", False, False
    world.sets[fresh.set_name].memo = NOTHING
    used = {pod.node for pod in world.pods.values()}
    world.nodes = {name: node for name, node in world.nodes.items() if name in {*used, "n3"}}  # one is left for the two
    assert [action.group for action in world.plan().actions if isinstance(action, Ungate)] == [begun.set_name]


def test_a_partly_bound_group_gives_its_nodes_back() -> None:
    world = World(wide(), nodes=gpu_nodes(5), watchers=[Invariants()])
    world.run(100, until=lambda: any(isinstance(action, Ungate) for action in world.log))
    stuck = next(name for name in world.pods if "decode" in name and name.endswith("-2"))
    world.unschedulable.add(stuck)
    begun = world.now
    assert world.run(60, until=lambda: restarted(world, Why.UNSCHEDULABLE))
    world.run(4)
    assert world.now - begun < 30
    assert not any(pod.node for pod in world.pods.values() if "decode" in pod.name)
    world.unschedulable.clear()
    assert world.run(200, until=lambda: is_settled(world))


@pytest.mark.parametrize("role", Role)
def test_a_group_starts_again_beside_one_whose_memo_is_lost(role: Role) -> None:
    world = World(wide(), nodes=gpu_nodes(5), watchers=[Invariants()])
    assert world.run(100, until=lambda: is_settled(world))
    for owner in world.sets.values():
        if owner.role is not role:
            owner.memo = NOTHING
    world.lose_pod(next(pod for pod in world.pods.values() if world.sets[pod.set_name].role is role))
    assert world.run(200, until=lambda: restarted(world, Why.POD_LOST))
    assert world.run(200, until=lambda: is_settled(world))


def test_pods_that_a_restart_still_has_to_delete_are_no_partner() -> None:
    """The operator died between the restart of decode and the deletions."""
    world = World(wide(), nodes=gpu_nodes(5))
    assert world.run(100, until=lambda: is_settled(world))
    for owner in world.sets.values():
        pods, owner.memo = world.pods_of(owner), NOTHING
        if owner.role is Role.DECODE:
            doomed = frozenset(pod.uid for pod in pods)
            owner.memo = GroupMemo(restart=Restart(count=1, at=world.now, why=Why.POD_LOST, doomed=doomed))
            continue
        for pod in pods:
            pod.is_gated, pod.node, pod.is_loaded = True, "", False
    actions = world.plan().actions
    assert sum(isinstance(action, Delete) for action in actions) == 3
    assert not any(isinstance(action, Ungate) for action in actions)


def restarted(world: World, why: Why) -> bool:
    memos = [action.memo for action in world.log if isinstance(action, Remember)]
    return any(memo.restart is not None and memo.restart.why is why for memo in memos)


def test_without_a_view_of_nodes_the_scheduler_decides() -> None:
    world = World(wide())
    assert world.run(100, until=lambda: is_settled(world))
    kinds = {found["type"]: found["status"] for found in world.status["conditions"]}
    assert kinds["NodeViewUnavailable"] == "True"


def test_services_contend_and_no_partial_group_holds_devices() -> None:
    """12 services of 5 nodes each want 60 nodes and find 24: each pod that is let through finds a node at once."""
    nodes = gpu_nodes(24)
    worlds = [World(wide(), nodes=nodes, seed=seed) for seed in range(12)]
    for world in worlds:
        world.neighbours = [other for other in worlds if other is not world]
    for _ in range(60):
        for world in worlds:
            world.run(1.0)
            assert_whole(world)
    served = sum(is_settled(world) for world in worlds)
    assert served == 4
    held = sum(bool(pod.node) for world in worlds for pod in world.pods.values())
    assert held == 20


def assert_whole(world: World) -> None:
    for owner in world.sets.values():
        pods = world.pods_of(owner)
        waiting = sum(not pod.is_gated and not pod.node and world.now - pod.created_at > 30 for pod in pods)
        assert not waiting, f"{owner.name} is only partly bound"


def test_pods_stay_gated_while_the_model_is_on_its_way() -> None:
    world = World(wide(model="hf://org/model"), nodes=gpu_nodes(5))
    world.run(60)
    assert world.pods
    assert all(pod.is_gated for pod in world.pods.values())
    ready = next(found for found in world.status["conditions"] if found["type"] == "ModelReady")
    assert (ready["status"], ready["reason"]) == ("False", "Downloading")
    assert world.status["columns"]["state"] == "Download 0%"
    world.job = JobState(bytes_done=1_390_000_000, bytes_total=3_000_000_000)
    world.run(5)
    ready = next(found for found in world.status["conditions"] if found["type"] == "ModelReady")
    assert ready["message"] == "downloading hf://org/model: 46% of 3.0 GB"
    assert world.status["columns"]["state"] == "Download 40%"
    world.job = JobState(is_done=True, bytes_done=100, bytes_total=100)
    assert world.run(100, until=lambda: is_settled(world))


def test_a_failed_download_says_what_to_do() -> None:
    world = World(wide(model="hf://org/model"), nodes=gpu_nodes(5))
    world.run(5)
    world.job = JobState(failed="hf://org/model asks for a token: set model.tokenSecretRef")
    world.run(5)
    found = {condition["type"]: condition for condition in world.status["conditions"]}
    assert found["ModelReady"]["reason"] == found["Degraded"]["reason"] == "DownloadFailed"
    assert "tokenSecretRef" in found["Degraded"]["message"]


def test_one_domain_holds_the_whole_group() -> None:
    nodes = gpu_nodes(6)
    racks = {name: {**node.labels, "rack": str(number // 2)} for number, (name, node) in enumerate(nodes.items())}
    world = World(wide(prefill_nodes=2, decode_nodes=3, placement={"topologyKey": "rack"}), nodes=nodes)
    for name, labels in racks.items():
        world.set_node(name, labels=labels)
    world.run(30)
    assert all(pod.is_gated for pod in world.pods.values()), "no rack has three nodes"
    for name, labels in racks.items():
        world.set_node(name, labels={**labels, "rack": "0"})
    assert world.run(100, until=lambda: is_settled(world))
    assert {owner.role for owner in world.sets.values()} == set(Role)
