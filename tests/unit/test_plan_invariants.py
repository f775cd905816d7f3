"""Each checker of the simulated cluster catches a fault planted in the planner or in what it renders."""

from __future__ import annotations

import pytest
from proa_operator.plan import gang, routing
from proa_operator.plan.rollout import Ledger
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Broken, Invariants, gateway_has_workers
from tests.unit.plan_world import Behaviour, World, is_settled


def rolled(*, surge: int = 1, start_seconds: float = 20.0) -> World:
    rules = {"maxSurgeGroups": surge, "maxUnavailableGroups": 0 if surge else 1}
    world = World(service(prefill=3, decode=2, rollout=rules), watchers=[Invariants()])
    world.behaviours["bundled://two"] = Behaviour(start_seconds=start_seconds)
    assert world.run(600, until=lambda: is_settled(world))
    world.change(service(prefill=3, decode=2, model="bundled://two", rollout=rules))
    assert world.run(3000, until=lambda: is_settled(world))
    return world


def test_no_fault_no_alarm() -> None:
    rolled()
    rolled(surge=0)


def test_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "_keeps", lambda self, leaver: True)
    with pytest.raises(Broken, match="lowers the capacity"):
        rolled()


def test_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Situation, "budget", lambda self, role: 6)
    with pytest.raises(Broken, match="pods hold devices, more than"):
        rolled()


def test_budget_counts_pods_that_are_still_terminating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Standing, "holds_devices", property(lambda self: not self.group.is_deleting))
    monkeypatch.setattr(gang._Starts, "has", lambda self, role: True)
    with pytest.raises(Broken, match="pods hold devices, more than"):
        rolled()


def test_decode_before_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "_strands_prefill", lambda self, leaver: False)
    with pytest.raises(Broken, match="was the last decode worker"):
        rolled()


def test_gateway_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "_strands_gateway", lambda self, leaver: False)
    one_pool = service(prefill=None, decode=2, topology="Aggregated")
    world = World(service(prefill=1, decode=1), watchers=[gateway_has_workers])
    assert world.run(600, until=lambda: is_settled(world))
    world.change(one_pool)
    with pytest.raises(Broken, match="gateway has no worker"):
        world.run(600)


def test_work_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Standing, "may_work", property(lambda self: False))
    with pytest.raises(Broken, match="is deleted with"):
        rolled()


def test_crossed_revisions() -> None:
    world = rolled()
    world.change(service(prefill=3, decode=2, model="bundled://three"))
    for pod in world.pods.values():
        pod.protocol = "same"

    def cross(world: World, action: object) -> None:
        for pod in world.pods.values():
            pod.protocol = "same"

    world.watchers.insert(0, cross)
    with pytest.raises(Broken, match="pairing protocol same joins the revisions"):
        world.run(600)


def test_restless_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    original = routing.routes

    def flapping(situation: Situation):  # type: ignore[no-untyped-def]
        yield from original(situation)
        for standing in situation.standings:
            yield from routing._hold(standing)

    monkeypatch.setattr(routing, "routes", flapping)
    with pytest.raises(AssertionError, match="does not come to rest"):
        rolled()
