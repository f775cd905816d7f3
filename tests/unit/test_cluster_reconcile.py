"""What is read again before a write, and which plans are given up for newer news."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from proa_operator.cluster import kinds
from proa_operator.cluster.cache import Cache, ServiceKey
from proa_operator.cluster.errors import Unreachable
from proa_operator.cluster.reconcile import Reconciler
from proa_operator.cluster.status import StatusWriter
from proa_operator.plan.actions import Action, Delete, Plan, Remember, Ungate
from proa_operator.plan.memo import Drain, DrainPhase, GroupMemo, Why
from proa_operator.plan.state import Observed

from tests.unit.cluster_api import FakeApi
from tests.unit.cluster_objects import pod_body, service_body, set_body

KEY: ServiceKey = ("default", "tiny")


class Around:
    """A reconciler whose plan deletes the leftovers that the cache shows; `log` has what was done in order."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.log: list[str] = []
        self.cache = Cache(lambda _: None)
        self.cache.put(kinds.SERVICE, {**service_body(), "status": {"told": 1}})
        self.leftovers = ["old"]
        self.actions: tuple[Action, ...] = ()
        self.woken: list[ServiceKey] = []
        self.on_read: Callable[[], None] = lambda: None
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
            wake_after=lambda key, seconds: self.woken.append(key),
            sees_nodes=False,
            downloads=whatever,
            pod_refusals=whatever,
            confirm=self.confirm,
            read_service=self.read_service,
        )

    def plan(self, observed: Observed) -> Plan:
        self.log.append("plan")
        actions = self.actions or tuple(Delete(kind="Service", name=name) for name in self.leftovers)
        return Plan(actions=actions, status=self.status, wake_at=None)

    async def confirm(self, key: ServiceKey) -> None:
        if not self.is_reachable:
            raise Unreachable("no answer")
        self.log.append("confirm")
        self.leftovers = self.leftovers[:-1]

    async def read_service(self, key: ServiceKey) -> None:
        self.log.append("read")
        self.on_read()

    def put_service(self, version: int, generation: int) -> None:
        body = service_body(version=version)
        body["metadata"]["generation"] = generation
        self.cache.put(kinds.SERVICE, body)


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


LEAVING = GroupMemo(drain=Drain(phase=DrainPhase.CORDONED, since=0.0, why=Why.ROLLOUT))
DRAIN = Remember(group="g", memo=LEAVING)
DELETE = Delete(kind="StatefulSet", name="g")
ADMIT = Remember(group="g", memo=GroupMemo(admitted_at=1.0))


@pytest.mark.parametrize(
    ("actions", "news", "log"),
    [
        pytest.param([ADMIT, ADMIT], "none", ["plan", "act", "act"], id="what adds needs no reading"),
        pytest.param([ADMIT, ADMIT], "group", ["plan", "act", "act"], id="nor does it mind other news"),
        pytest.param([ADMIT, ADMIT], "spec", ["plan", "act"], id="another spec asks for another plan"),
        pytest.param([DRAIN, ADMIT], "none", ["plan", "read", "act", "act"], id="a drain reads the spec again"),
        pytest.param([ADMIT, DRAIN], "group", ["plan", "act", "read"], id="a drain counts on all other groups"),
        pytest.param([ADMIT, DELETE], "group", ["plan", "act", "read"], id="so does a deletion"),
        pytest.param([DRAIN, ADMIT], "late spec", ["plan", "read"], id="a spec that the watch has not told yet"),
        pytest.param([DRAIN, ADMIT], "group in read", ["plan", "read"], id="news during the read stop a drain"),
        pytest.param([DELETE], "group in read", ["plan", "read"], id="and a deletion"),
    ],
)
async def test_a_plan_ends_where_the_news_outdate_it(actions: list[Action], news: str, log: list[str]) -> None:
    """Without `_is_outdated` a drain of an older spec is begun after the numbers were raised."""
    around = Around({"told": 2})
    around.actions = tuple(actions)

    def tell_group() -> None:
        around.cache.put(kinds.STATEFUL_SET, set_body(version=7))

    def tell_spec() -> None:
        around.put_service(7, 2)

    on_act = {"group": tell_group, "spec": tell_spec}
    on_read = {"group in read": tell_group, "late spec": tell_spec}
    around.on_act, around.on_read = on_act.get(news, around.on_act), on_read.get(news, around.on_read)
    await around.reconciler.reconcile(KEY, 0.0)
    is_outdated = log.count("act") < len(actions)
    assert around.log == log
    assert (around.woken, len(around.api.calls)) == (([KEY], 0) if is_outdated else ([], 1))
