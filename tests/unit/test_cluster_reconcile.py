"""A service that another leader may have written to is read again before the first write, and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from proa_operator.cluster import kinds
from proa_operator.cluster.cache import Cache, ServiceKey
from proa_operator.cluster.errors import Unreachable
from proa_operator.cluster.reconcile import Reconciler
from proa_operator.cluster.status import StatusWriter
from proa_operator.plan.actions import Delete, Plan, Ungate
from proa_operator.plan.state import Observed

from tests.unit.cluster_api import FakeApi
from tests.unit.cluster_objects import pod_body, service_body

KEY: ServiceKey = ("default", "tiny")


class Around:
    """A reconciler whose plan deletes the leftovers that the cache shows; `log` has what was done in order."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.log: list[str] = []
        self.cache = Cache(lambda _: None)
        self.cache.put(kinds.SERVICE, {**service_body(), "status": {"told": 1}})
        self.leftovers = ["old"]
        self.status = status
        self.is_reachable = True
        self.on_act: Callable[[], None] = lambda: None
        api, stub = FakeApi(), _Stub(self)
        api.seed({**service_body(), "status": {"told": 1}})
        whatever: Any = stub
        fake: Any = api
        self.api = api
        self.reconciler = Reconciler(
            cache=self.cache,
            workers=whatever,
            actor=whatever,
            statuses=StatusWriter(fake, self.cache),
            election=whatever,
            planner=self.plan,
            clock=lambda: 0.0,
            wake_after=lambda key, seconds: None,
            sees_nodes=False,
            downloads=whatever,
            pod_refusals=whatever,
            confirm=self.confirm,
        )

    def plan(self, observed: Observed) -> Plan:
        self.log.append("plan")
        actions = tuple(Delete(kind="Service", name=name) for name in self.leftovers)
        return Plan(actions=actions, status=self.status, wake_at=None)

    async def confirm(self, key: ServiceKey) -> None:
        if not self.is_reachable:
            raise Unreachable("no answer")
        self.log.append("confirm")
        self.leftovers = self.leftovers[:-1]


class _Stub:
    """Stands for every part that these tests do not look at."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self.transitions = 1
        self.applier = self
        self.loads: dict[str, Any] = {}
        self.probes: dict[str, Any] = {}

    def check(self, reign: int | None = None) -> None:
        pass

    def is_touched(self, child: object) -> bool:
        return False

    def refusals(self, key: ServiceKey) -> tuple[()]:
        return ()

    def of(self, what: object) -> Any:
        return ()

    async def act(self, action: object, scope: object) -> None:
        self._around.log.append("act")
        self._around.on_act()


@pytest.mark.parametrize(
    ("is_doubted", "leftovers", "status", "log"),
    [
        pytest.param(False, ["old"], 1, ["plan", "act"], id="made in this reign"),
        pytest.param(True, ["old"], 1, ["plan", "confirm", "plan"], id="another leader has done it already"),
        pytest.param(True, ["old", "older"], 1, ["plan", "confirm", "plan", "act"], id="still to be done"),
        pytest.param(True, [], 1, ["plan"], id="nothing to write, nothing to read"),
        pytest.param(True, [], 2, ["plan", "confirm", "plan"], id="a status is a write as well"),
    ],
)
async def test_the_first_write_of_a_reign(is_doubted: bool, leftovers: list[str], status: int, log: list[str]) -> None:
    around = Around({"told": status})
    around.leftovers = leftovers
    around.reconciler.doubt([KEY] if is_doubted else [])
    await around.reconciler.reconcile(KEY, 0.0)
    assert around.log == log
    assert [call[0] for call in around.api.calls] == (["json"] if status == 2 else [])


async def test_doubt_stays_until_the_reading_succeeds() -> None:
    around = Around({"told": 1})
    around.leftovers = ["old", "older"]
    around.reconciler.doubt([KEY])
    around.is_reachable = False
    with pytest.raises(Unreachable):
        await around.reconciler.reconcile(KEY, 0.0)
    assert "act" not in around.log
    around.is_reachable = True
    await around.reconciler.reconcile(KEY, 0.0)
    await around.reconciler.reconcile(KEY, 0.0)
    assert around.log == ["plan", "plan", "confirm", "plan", "act", "plan", "act"]


async def test_room_that_is_being_taken_is_not_there_for_others() -> None:
    """Services are planned side by side: the second is planned before the first has written anything."""
    around = Around({"told": 1})
    pod = pod_body(gated=True)
    around.cache.put(kinds.POD, pod)
    name = pod["metadata"]["name"]
    ungate = Plan(actions=(Ungate(group="g", pods=(name,)),), status={"told": 1}, wake_at=None)
    around.reconciler.planner = lambda observed: ungate
    taken: list[int] = []
    around.on_act = lambda: taken.append(around.cache.nodes.unbound_besides(("default", "other")))
    await around.reconciler.reconcile(KEY, 0.0)
    assert (taken, around.cache.nodes.unbound_besides(("default", "other"))) == ([1], 0)
