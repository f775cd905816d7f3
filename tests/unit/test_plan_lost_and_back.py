"""A group in the place of one on a lost node starts only while the lost one does not count."""

from __future__ import annotations

from typing import Any

import pytest
from proa_operator.names import Role
from proa_operator.plan import gang
from proa_operator.plan.actions import Action, Delete, Remember, Route, Ungate, takes_away
from proa_operator.plan.memo import NOTHING, Drain, DrainPhase, GroupMemo, Why
from proa_operator.plan.state import RouteReason

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Broken, Invariants
from tests.unit.plan_world import World, gpu_nodes, is_settled

SHAPE: dict[str, Any] = {
    "accelerator": {"product": "MI300X", "gpusPerPod": 8},
    "pools": {"prefill": {"parallelism": {"dp": 8}}, "decode": {"parallelism": {"dp": 8}}},
}


def admitted_beside_a_lost_one(*, surge: int = 0) -> tuple[World, str]:
    """The new prefill group has its memo, and no pod of it is through the gate; the second value is the lost node."""
    rules = {"maxSurgeGroups": surge, "maxUnavailableGroups": 1 - surge}
    world = World(service(prefill=1, decode=2, rollout=rules, **SHAPE), nodes=gpu_nodes(8), watchers=[Invariants()])
    assert world.run(600, until=lambda: is_settled(world))
    node = next(pod.node for pod in world.pods.values() if world.sets[pod.set_name].role is Role.PREFILL)
    world.log.clear()
    world.set_node(node, is_ready=False)
    assert world.run(60, until=lambda: bool(ungatings(world)))
    for pod in world.pods.values():
        if pod.name in ungatings(world)[0].pods:
            pod.is_gated, pod.node, pod.is_loaded = True, "", False
    return world, node


def ungatings(world: World) -> list[Ungate]:
    return [action for action in world.log if isinstance(action, Ungate)]


@pytest.mark.parametrize(("surge", "is_checked"), [(0, True), (1, False)])
def test_a_start_that_counts_on_a_lost_node_is_looked_at_once_more(surge: int, is_checked: bool) -> None:
    world, _ = admitted_beside_a_lost_one(surge=surge)
    (ungating,) = ungatings(world)
    assert takes_away(ungating) is is_checked


def test_it_starts_while_the_node_is_lost() -> None:
    world, _ = admitted_beside_a_lost_one()
    assert world.run(200, until=lambda: len(ungatings(world)) == 2)


def test_it_does_not_start_when_the_node_is_back() -> None:
    world, node = admitted_beside_a_lost_one()
    world.set_node(node, is_ready=True)
    assert world.run(200, until=lambda: is_settled(world))
    assert len(ungatings(world)) == 1
    assert any(pod.node == node and pod.is_routable for pod in world.pods.values()), "the one that serves stays"


def test_a_budget_that_is_not_looked_at_again_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    world, node = admitted_beside_a_lost_one()
    monkeypatch.setattr(gang._Starts, "has", lambda self, role: True)
    monkeypatch.setattr("proa_operator.plan.rollout.shrink", lambda situation: ())
    world.set_node(node, is_ready=True)
    with pytest.raises(Broken, match="pods hold devices, more than"):
        world.run(60)


DRAINED = GroupMemo(drain=Drain(phase=DrainPhase.CORDONED, since=0.0, why=Why.SCALE_IN))
ACTIONS: list[tuple[Action, bool]] = [
    (Remember(group="g", memo=NOTHING), False),
    (Remember(group="g", memo=DRAINED), True),
    (Delete(kind="StatefulSet", name="g"), True),
    (Delete(kind="Pod", name="p", uid="u"), False),
    (Route(pod="p", is_routable=True, reason=RouteReason.ROUTABLE), False),
    (Route(pod="p", is_routable=False, reason=RouteReason.CORDONED), False),
    (Route(pod="p", is_routable=False, reason=RouteReason.NOT_LOADED), True),
    (Ungate(group="g", pods=("p",)), False),
    (Ungate(group="g", pods=("p",), replaces_lost=True), True),
]


@pytest.mark.parametrize(("action", "expected"), ACTIONS)
def test_what_is_right_only_at_the_moment(action: Action, expected: bool) -> None:
    assert takes_away(action) is expected
