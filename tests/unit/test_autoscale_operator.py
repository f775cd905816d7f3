"""Rounds of the operator's autoscaler against a double of the API server and a scripted Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from proa_operator import names
from proa_operator.autoscale.memory import from_text
from proa_operator.autoscale.queries import Query, Windows
from proa_operator.autoscale.replay import replay
from proa_operator.autoscale.source import Unanswered
from proa_operator.cluster import kinds
from proa_operator.cluster.autoscale import NO_PROMETHEUS, Autoscaler
from proa_operator.cluster.autoscale_profiles import Profiles
from proa_operator.cluster.autoscale_write import Writer
from proa_operator.cluster.cache import Cache
from proa_operator.cluster.errors import Conflict
from proa_operator.cluster.events import Events
from prometheus_client import REGISTRY

from tests.unit.cluster_api import FakeApi
from tests.unit.cluster_objects import meta, owned, service_body
from tests.unit.test_autoscale_readings import DECODE, GATEWAY, NAN, PREFILL, answers

PERIOD = 15.0
PROFILE = {
    "apiVersion": "proa.dev/v1alpha1",
    "kind": "PerformanceProfile",
    "metadata": {"name": "p", "namespace": "default"},
    "spec": {
        "model": "bundled://tiny-moe",
        "engine": "sim",
        "step": {"baseSeconds": "0.02"},
        "prefill": {"tokenSeconds": "0.0005"},
        "decode": {"sequenceSeconds": "0.001"},
        "kvBytesPerToken": 1000,
        "kvCacheTokens": 200000,
        "provenance": {"origin": "simulated", "date": "2026-11-24"},
    },
}
SLO = {"ttftMs": 1500, "itlMs": 50, "percentile": 95}


class Api(FakeApi):
    """With lists, and the check of the version that a patch names."""

    def __init__(self, profiles: list[dict[str, Any]]) -> None:
        super().__init__()
        self.profiles = profiles

    async def pages(self, kind: kinds.Kind, namespace: str, query: dict[str, str]) -> Any:
        yield self.profiles, 1

    async def merge_patch(self, ref: Any, patch: dict[str, Any], *, manager: str) -> Any:
        named = patch["metadata"].get("resourceVersion")
        present = self.objects.get((ref.kind.name, ref.name))
        if named and present and present["metadata"]["resourceVersion"] != named:
            raise Conflict(409, "Conflict", "the object has been modified")
        spec = {**(present or {}).get("spec", {}), **patch.get("spec", {})}
        return await super().merge_patch(ref, {**patch, "spec": spec} if spec else patch, manager=manager)


class World:
    """A service with its pools in the cache; the script says what Prometheus answers."""

    def __init__(
        self,
        *,
        sizes: tuple[int, int] = (1, 1),
        profiles: bool = True,
        engine: dict[str, str] | None = None,
        **autoscaling: Any,
    ) -> None:
        self.now, self.script = 1000.0, answers
        self.trouble = ""
        bounds = {"prefill": {"min": 1, "max": 8}, "decode": {"min": 1, "max": 8}}
        spec = {"mode": "Active", **bounds, **autoscaling}
        fake = Api([PROFILE] if profiles else [])
        self.api, api = fake, fake
        self.cache = Cache(lambda _: None)
        kind = {"engine": engine} if engine else {}
        self._put(service_body(version=1, slo=SLO, autoscaling=spec, status=_status(*sizes), **kind))
        for role, number in zip(("prefill", "decode"), sizes, strict=True):
            self._put(pool_body(role, number))
        self._put(gateway_body())
        untyped: Any = api
        self.autoscaler = Autoscaler(
            cache=self.cache,
            source=self,
            spans=Windows().spans,
            profiles=Profiles(untyped, ()),
            writer=Writer(untyped, self.cache),
            events=Events(untyped),
            may_act=lambda: True,
            clock=lambda: self.now,
        )

    async def read(self) -> dict[Query, Any]:
        if self.trouble:
            raise Unanswered(self.trouble)
        place = {"namespace": "default", "service": "tiny"}
        return {
            query: [({**labels, **place}, value) for labels, value in rows] for query, rows in self.script().items()
        }

    async def rounds(self, number: int, **changes: Any) -> list[tuple[int, int]]:
        """So many periods; what was asked for is there at the next."""
        self.script = lambda: answers(**changes)
        seen = []
        for _ in range(number):
            await self.autoscaler.round(self.now)
            seen.append(self.sizes)
            self.arrive()
            self.now += PERIOD
        return seen

    def arrive(self) -> None:
        body = self.api.objects["DisaggregatedService", "tiny"]
        status = {**body["status"], **_status(*self.sizes)}
        if status != body["status"]:
            version = str(next(self.api._versions))
            self._put({**body, "status": status, "metadata": {**body["metadata"], "resourceVersion": version}})

    @property
    def sizes(self) -> tuple[int, int]:
        found = [self.api.objects["WorkerPool", f"tiny-{role}"]["spec"]["replicas"] for role in ("prefill", "decode")]
        return found[0], found[1]

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.api.objects["DisaggregatedService", "tiny"]["status"])

    def message(self, kind: str) -> str:
        return next((one["message"] for one in self.status["conditions"] if one["type"] == kind), "")

    def condition(self, kind: str) -> str:
        return next((one["status"] for one in self.status["conditions"] if one["type"] == kind), "")

    def notes(self, role: str) -> dict[str, str]:
        return dict(self.api.objects["WorkerPool", f"tiny-{role}"]["metadata"].get("annotations", {}))

    def scale_by_hand(self, role: str, replicas: int, manager: str = "kubectl") -> None:
        """Through /scale, which the API server writes down."""
        body = self.api.objects["WorkerPool", f"tiny-{role}"]
        owned: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
        fields = [{"manager": manager, "operation": "Update", "subresource": "scale", "fieldsV1": owned}]
        head = {**body["metadata"], "managedFields": fields, "resourceVersion": str(next(self.api._versions))}
        self._put({**body, "spec": {**body["spec"], "replicas": replicas}, "metadata": head})

    def _put(self, body: dict[str, Any]) -> None:
        self.cache.put(kinds.KINDS[body["kind"]], self.api.seed(body))


def pool_body(role: str, replicas: int) -> dict[str, Any]:
    spec = {"service": "tiny", "role": role, "replicas": replicas}
    head = meta(f"tiny-{role}", labels={"proa.dev/role": role}, ownerReferences=owned())
    return {"kind": "WorkerPool", "metadata": head, "spec": spec}


def gateway_body(ready: int = 2) -> dict[str, Any]:
    spec = {"replicas": 2, "template": {"spec": {"containers": [{"args": []}]}}}
    status = {"readyReplicas": ready, "updatedReplicas": 2, "availableReplicas": ready, "replicas": 2}
    head = meta("tiny-gateway", ownerReferences=owned())
    return {"kind": "Deployment", "metadata": head, "spec": spec, "status": status}


def _status(prefill: int, decode: int) -> dict[str, Any]:
    def counts(number: int) -> dict[str, int]:
        return {"desired": number, "replicas": number, "ready": number, "routable": number, "draining": 0}

    pools = {"prefill": counts(prefill), "decode": counts(decode)}
    return {"pools": pools, "revisions": [{"name": "0a1b2c3d", "isTarget": True}]}


ALL_SCRAPED = {"WORKERS": [(PREFILL, 8.0), (DECODE, 8.0)], "GATEWAYS": [(GATEWAY, 2.0)]}
LOADED = {"ARRIVALS": [(GATEWAY, 10.0)], **ALL_SCRAPED}
CALM = {"ARRIVALS": [(GATEWAY, 0.5)], **ALL_SCRAPED, "WAITING": [(PREFILL, 0.0), (DECODE, 0.0)]}


async def test_load_grows_the_pools_and_says_so() -> None:
    world = World()
    seen = await world.rounds(5, **LOADED)
    assert seen[0] == (1, 1)
    assert seen[-1][0] > 1
    assert world.notes("prefill")[names.AUTOSCALED_ANNOTATION] == str(seen[-1][0])
    assert from_text(world.notes("decode")[names.MEMORY_ANNOTATION]).up_at is not None
    events = [body for key, body in world.api.objects.items() if key[0] == "Event"]
    assert {"ScaledUp"} == {event["reason"] for event in events}
    assert world.status["autoscaler"]["mode"] == "Active"
    assert (world.condition("MetricsFresh"), world.condition("RatioFeasible")) == ("True", "True")


async def test_a_steady_service_costs_no_writes() -> None:
    world = World()
    await world.rounds(30, **CALM)
    world.api.calls.clear()
    await world.rounds(30, **CALM)
    assert world.api.calls == []


async def test_advice_is_given_and_not_taken() -> None:
    for world in (World(mode="Advisory"), World(profiles=False)):
        assert set(await world.rounds(6, **LOADED)) == {(1, 1)}
        assert world.status["autoscaler"]["mode"] == "Advisory"
        assert world.message("PoolsOwned").endswith("no number is changed")


async def test_a_number_set_by_hand_stays_and_is_remembered() -> None:
    world = World(sizes=(2, 2))
    await world.rounds(2, **CALM)
    world.scale_by_hand("prefill", 6)
    seen = await world.rounds(30, **LOADED)
    assert {prefill for prefill, _ in seen} == {6}
    assert seen[-1][1] > 1
    assert float(world.notes("prefill")[names.MANUAL_ANNOTATION]) < world.now
    assert "prefill was set by hand at 00:17:10Z and is left alone for 600 s" in world.message("PoolsOwned")
    late = await world.rounds(60, **CALM)
    assert late[-1][0] < 6


async def test_a_conflict_is_tried_again() -> None:
    world = World()
    await world.rounds(3, **CALM)
    body = world.api.objects["WorkerPool", "tiny-prefill"]
    world.api.seed({**body, "metadata": {**body["metadata"], "resourceVersion": str(next(world.api._versions))}})
    assert {prefill for prefill, _ in await world.rounds(4, **LOADED)} == {1}
    world._put(world.api.objects["WorkerPool", "tiny-prefill"])
    assert (await world.rounds(2, **LOADED))[-1][0] > 1


async def test_without_a_prometheus_the_service_is_told() -> None:
    world = World()
    world.autoscaler._source = None
    await world.rounds(2)
    assert NO_PROMETHEUS in world.message("MetricsFresh")


async def test_a_renamed_metric_is_named_with_the_version_of_the_engine() -> None:
    world = World(engine={"type": "vllm", "image": "vllm/vllm-openai:v0.9.1"})
    await world.rounds(3, **{**CALM, "KV_USAGE": []})
    assert world.condition("MetricsFresh") == "False"
    assert "vllm:gpu_cache_usage_perc (as vLLM 0.9.1 names it) of decode" in world.message("MetricsFresh")


@pytest.mark.parametrize("manager", ["kube-controller-manager", "keda-operator"])
async def test_a_pool_of_a_horizontal_pod_autoscaler_is_left_alone_for_good(manager: str) -> None:
    """No number is written over one that a controller would write again, however long ago; the other pool follows."""
    world = World(sizes=(1, 2))
    await world.rounds(3, **CALM)
    world.scale_by_hand("prefill", 3, manager)
    world.api.calls.clear()
    seen = await world.rounds(90, **CALM)
    assert {prefill for prefill, _ in seen} == {3}
    assert seen[-1][1] == 1
    assert len([call for call in world.api.calls if "tiny-prefill" in str(call)]) == 1  # the mark
    assert world.condition("PoolsOwned") == "False"
    assert f"prefill is sized by {manager}" in world.message("PoolsOwned")
    world.scale_by_hand("prefill", 4)
    assert (await world.rounds(60, **CALM))[-1][0] < 3
    assert (world.condition("PoolsOwned"), world.message("PoolsOwned")) == ("True", "the autoscaler sizes both pools")


def _stale() -> dict[str, Any]:
    return {"WORKERS": [], "GATEWAYS": []}


@pytest.mark.parametrize(
    "chaos",
    [
        lambda world: setattr(world, "trouble", "connection refused"),
        {"WAITING": [(PREFILL, NAN), (DECODE, NAN)]},
        {"ARRIVALS": [(GATEWAY, NAN)]},
        _stale(),
        {"KV_USAGE": []},
        {"WORKERS": [(PREFILL, 1.0), (DECODE, 1.0)]},
        {"GATEWAYS": [(GATEWAY, 1.0)]},
    ],
    ids=["down", "NaN", "NaN arrivals", "stale", "renamed", "half unscraped", "a gateway unscraped"],
)
async def test_metrics_chaos(chaos: dict[str, Any] | Callable[[World], None]) -> None:
    """Nothing shrinks, MetricsFresh is False within 60 s, and the end of it makes no jump."""
    world = World(sizes=(4, 4))
    await world.rounds(80, **{**LOADED, "ARRIVALS": [(GATEWAY, 8.0)]})
    held = world.sizes
    changes = dict(CALM)
    if callable(chaos):
        chaos(world)
    else:
        changes |= chaos
    assert set(await world.rounds(3, **changes)) == {held}
    assert world.condition("MetricsFresh") == "False"
    assert set(await world.rounds(40, **changes)) == {held}
    world.trouble = ""
    assert (await world.rounds(1, **{**LOADED, "ARRIVALS": [(GATEWAY, 60.0)]})) == [held]
    assert world.condition("MetricsFresh") == "True"
    assert set(await world.rounds(15, **CALM)) == {held}
    assert (await world.rounds(40, **CALM))[-1] < held


async def test_an_outage_of_the_gateway_is_not_taken_for_no_load() -> None:
    world = World(sizes=(4, 4))
    body = gateway_body(ready=0)
    world._put({**body, "metadata": {**body["metadata"], "resourceVersion": str(next(world.api._versions))}})
    assert set(await world.rounds(60, **{**CALM, "ARRIVALS": [], "GATEWAYS": []})) == {(4, 4)}
    assert world.condition("MetricsFresh") == "False"


async def test_a_counter_reset_is_no_reason_to_shrink() -> None:
    """Prometheus' rate() is never negative; what a reset leaves is a low reading, and the window holds."""
    world = World(sizes=(4, 4))
    await world.rounds(80, **{**LOADED, "ARRIVALS": [(GATEWAY, 8.0)]})
    held = world.sizes
    assert await world.rounds(3, **{**LOADED, "ARRIVALS": [(GATEWAY, -5.0)]}) == [held] * 3
    assert await world.rounds(5, **{**LOADED, "ARRIVALS": [(GATEWAY, 8.0)]}) == [held] * 5


async def test_a_restart_goes_on_with_the_memory_and_an_old_one_holds_for_a_window() -> None:
    world = World(sizes=(2, 2))
    await world.rounds(60, **CALM)
    text = world.notes("decode")[names.MEMORY_ANNOTATION]
    memory = from_text(text)
    assert memory.since == 1000.0
    world.autoscaler._known.clear()
    soon = await world.rounds(15, **CALM)
    assert soon[-1] != (2, 2)
    world = World(sizes=(2, 2))
    body = world.api.objects["WorkerPool", "tiny-decode"]
    notes = {**body["metadata"], "annotations": {names.MEMORY_ANNOTATION: text}, "resourceVersion": "7"}
    world._put({**body, "metadata": notes})
    world.now = 100_000.0
    assert set(await world.rounds(18, **CALM)) == {(2, 2)}


async def test_the_log_holds_a_record_that_replays(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await World().rounds(5, **LOADED)
    records = [json.loads(line.decision) for line in caplog.records if line.message == "autoscaler decision"]
    assert records
    assert all(replay(record).differences == () for record in records)
    assert all(record["config"]["spans"] == {"arrivals": 45.0, "lengths": 45.0} for record in records)


async def test_a_thousand_services_are_decided_within_a_second_from_one_reading() -> None:
    world = World()
    bodies = [world.api.objects[key] for key in list(world.api.objects)]
    for number in range(1000):
        for body in bodies:
            text = json.dumps(body).replace('"tiny', f'"s{number}').replace("uid-tiny", f"uid-s{number}")
            world._put(json.loads(text))
    place = {"namespace": "default"}
    everything = {
        query: [
            ({**labels, **place, "service": f"s{number}"}, value) for number in range(1000) for labels, value in rows
        ]
        for query, rows in answers(**CALM).items()
    }
    reads = 0

    async def read() -> Any:
        nonlocal reads
        reads += 1
        return everything

    world.read = read  # type: ignore[method-assign]
    took = []
    for _ in range(4):  # the first round writes; the best of the others counts, for other work shares the cores
        started = time.process_time()
        await world.autoscaler.round(world.now)
        took.append(time.process_time() - started)
        world.now += PERIOD
    assert len(world.autoscaler._known) == 1001
    modes = [world.api.objects["DisaggregatedService", f"s{number}"]["status"]["autoscaler"] for number in range(1000)]
    assert {mode["mode"] for mode in modes} == {"Active"}, "each one was decided"
    assert reads == len(took), "Prometheus is asked once a round, whatever the number of services"
    assert min(took[1:]) < 1.0


async def test_a_service_that_is_gone_leaves_no_metrics() -> None:
    world = World()
    await world.rounds(2, **CALM)
    series = {"namespace": "default", "service": "tiny"}
    assert REGISTRY.get_sample_value("proa_autoscaler_metrics_fresh", series) == 1.0
    world.cache.remove(kinds.SERVICE, "default", "tiny", "uid-tiny")
    await world.autoscaler.round(world.now)
    assert REGISTRY.get_sample_value("proa_autoscaler_metrics_fresh", series) is None
    world._put(service_body(version=9000, slo=SLO))
    await world.autoscaler.round(world.now + 60)
    assert not world.autoscaler._known


async def test_a_defect_in_one_service_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("proa_operator.cluster.autoscale.decide", broken)
    world = World()
    assert await world.rounds(2, **LOADED) == [(1, 1), (1, 1)]
    assert "decision failed" in caplog.text
