"""The cache: which news is news, for whom, and what nodes have left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proa_operator.cluster import kinds
from proa_operator.cluster.cache import Cache, ServiceKey
from proa_operator.cluster.facts import PodFacts

from tests.unit.cluster_objects import meta, node_body, pod_body, service_body, set_body

TINY = ("default", "tiny")


@pytest.fixture
def news() -> list[set[ServiceKey]]:
    return []


@pytest.fixture
def cache(news: list[set[ServiceKey]]) -> Cache:
    return Cache(news.append)


def test_only_newer_versions_that_say_something_new_are_news(cache: Cache, news: list[set[ServiceKey]]) -> None:
    for version, replicas in ((5, 1), (5, 2), (4, 2), (6, 1), (7, 2)):
        body = set_body(version=version)
        body["spec"]["replicas"] = replicas
        cache.put(kinds.STATEFUL_SET, body)
    assert news == [{TINY}, {TINY}], "the first sight, and the first newer version with another number"


def test_a_known_version_is_not_trimmed_again(cache: Cache, news: list[set[ServiceKey]]) -> None:
    body = set_body(version=5)
    cache.put(kinds.STATEFUL_SET, body)
    cache.put(kinds.STATEFUL_SET, {"metadata": body["metadata"]})
    assert news == [{TINY}], "a list of what is known costs its parsing only"


def test_a_deleted_object_does_not_come_back_with_a_late_event(cache: Cache, news: list[set[ServiceKey]]) -> None:
    body = set_body(version=5)
    name, uid = body["metadata"]["name"], body["metadata"]["uid"]
    cache.put(kinds.STATEFUL_SET, body)
    cache.remove(kinds.STATEFUL_SET, "default", name, uid)
    cache.put(kinds.STATEFUL_SET, set_body(version=6))
    assert cache.get(kinds.STATEFUL_SET, "default", name) is None
    assert (cache.children(TINY), news) == ([], [{TINY}, {TINY}])


def test_an_object_that_lost_its_label_comes_back_with_it(cache: Cache) -> None:
    body = set_body(version=5)
    name, uid = body["metadata"]["name"], body["metadata"]["uid"]
    cache.put(kinds.STATEFUL_SET, body)
    cache.remove(kinds.STATEFUL_SET, "default", name, uid, 6)
    cache.put(kinds.STATEFUL_SET, set_body(version=6))
    assert cache.get(kinds.STATEFUL_SET, "default", name) is None, "what left with version 6 is not news"
    cache.put(kinds.STATEFUL_SET, set_body(version=7))
    assert cache.get(kinds.STATEFUL_SET, "default", name) is not None


def test_the_removal_of_a_former_object_does_not_touch_its_namesake(cache: Cache) -> None:
    old, new = pod_body(version=5), pod_body(version=9)
    old["metadata"]["uid"], new["metadata"]["uid"] = "old", "new"
    cache.put(kinds.POD, old)
    cache.put(kinds.POD, new)
    cache.remove(kinds.POD, "default", old["metadata"]["name"], "old")
    assert [child.uid for child in cache.children(TINY)] == ["new"]


def test_an_object_that_changes_its_service_leaves_the_old_one(cache: Cache, news: list[set[ServiceKey]]) -> None:
    cache.put(kinds.STATEFUL_SET, set_body(version=1))
    moved = set_body(version=2)
    moved["metadata"]["labels"]["proa.dev/service"] = "other"
    cache.put(kinds.STATEFUL_SET, moved)
    assert cache.children(TINY) == []
    assert len(cache.children(("default", "other"))) == 1
    assert news[-1] == {TINY, ("default", "other")}


def test_a_service_is_known_by_its_own_name(cache: Cache, news: list[set[ServiceKey]]) -> None:
    cache.put(kinds.SERVICE, service_body())
    assert (cache.services(), news, cache.children(TINY)) == ([TINY], [{TINY}], [])


FOREIGN: dict[str, Any] = {"metadata": {**meta("other", version=3), "labels": {}}, "status": {"phase": "Running"}}


@pytest.mark.parametrize(("gpus", "used"), [("3", {"amd.com/gpu": 3}), ("", {})])
def test_pods_of_others_count_only_for_devices(cache: Cache, gpus: str, used: dict[str, int]) -> None:
    requests = {"cpu": "1", **({"amd.com/gpu": gpus} if gpus else {})}
    spec = {"nodeName": "n0", "containers": [{"name": "x", "resources": {"requests": requests}}]}
    cache.put(kinds.NODE, node_body())
    cache.put(kinds.POD, {**FOREIGN, "spec": spec})
    assert cache.nodes.states["n0"].used == used
    assert cache.count(kinds.POD) == (1 if gpus else 0)


def test_who_waits_for_room_hears_of_nodes_and_of_pods_that_end(cache: Cache, news: list[set[ServiceKey]]) -> None:
    waiting = pod_body("prefill", gated=True)
    waiting["metadata"]["labels"]["proa.dev/service"] = "waits"
    cache.put(kinds.NODE, node_body())
    cache.put(kinds.POD, pod_body(version=2, node="n0", gpus=4))
    cache.put(kinds.POD, waiting)
    news.clear()
    cache.put(kinds.NODE, node_body(version=3, gpus=7))
    assert news == [{TINY, ("default", "waits")}]
    cache.put(kinds.POD, pod_body(version=4, node="n0", gpus=4, phase="Failed"))
    assert news[-1] == {TINY, ("default", "waits")}
    assert cache.nodes.states["n0"].used == {"amd.com/gpu": 0}


def test_a_heartbeat_of_a_node_is_no_news(cache: Cache, news: list[set[ServiceKey]]) -> None:
    cache.put(kinds.NODE, node_body(version=1))
    cache.put(kinds.POD, pod_body(node="n0"))
    news.clear()
    cache.put(kinds.NODE, node_body(version=2))
    assert news == []


def test_pods_on_their_way_to_a_node_count_for_all_other_services(cache: Cache) -> None:
    cache.put(kinds.POD, pod_body(phase="Pending"))
    assert (cache.nodes.unbound_besides(TINY), cache.nodes.unbound_besides(("default", "other"))) == (0, 1)


def test_a_promised_pod_counts_once(cache: Cache) -> None:
    other, pod = ("default", "other"), pod_body(gated=True, phase="Pending")
    cache.put(kinds.POD, pod)
    cache.nodes.promise(TINY, frozenset({pod["metadata"]["name"], "gone"}))
    assert (cache.nodes.unbound_besides(TINY), cache.nodes.unbound_besides(other)) == (0, 1)
    cache.put(kinds.POD, pod_body(version=2, phase="Pending"))
    assert cache.nodes.unbound_besides(other) == 1
    cache.nodes.promise(TINY, frozenset())
    assert cache.nodes.unbound_besides(other) == 1


POD_STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["", "n0", "n1"]), st.integers(0, 8), st.booleans()), max_size=30
)


@given(steps=POD_STEPS)
def test_use_of_nodes_is_the_sum_over_the_pods_that_are_there(steps: list[tuple[int, str, int, bool]]) -> None:
    """The counters that are kept one change at a time equal a count from nothing."""
    cache = Cache(lambda _: None)
    for name in ("n0", "n1"):
        cache.put(kinds.NODE, node_body(name))
    for version, (index, node, gpus, is_gone) in enumerate(steps, start=2):
        body = pod_body(index=index, version=version, node=node, gpus=gpus)
        body["metadata"]["uid"] = f"life-{version}"
        known = cache.get(kinds.POD, "default", body["metadata"]["name"])
        if is_gone and known is not None:
            cache.remove(kinds.POD, "default", known.name, known.uid)
        elif not is_gone:
            cache.put(kinds.POD, body)
    for name in ("n0", "n1"):
        pods = [pod.facts for pod in cache.all(kinds.POD) if isinstance(pod.facts, PodFacts)]
        taken = [amount for pod in pods if pod.node == name for _, amount in pod.requests]
        assert cache.nodes.states[name].used.get("amd.com/gpu", 0) == sum(taken)
