"""Checks of a cluster, each with what is right and with the fault that it must find."""

from __future__ import annotations

from typing import Any

import pytest
from proa_operator.doctor import cluster
from proa_operator.doctor.cluster_facts import ClusterFacts, Right
from proa_operator.doctor.finding import Finding, Level

ALL_KINDS = frozenset(cluster.KINDS)


def _facts(**found: Any) -> ClusterFacts:
    values: dict[str, Any] = {"server": "https://a", "namespace": "team", "version": "v1.36.1", "kinds": ALL_KINDS}
    return ClusterFacts(**(values | found))


def _assert(finding: Finding, level: Level, text: str) -> None:
    assert (finding.level, text in finding.found) == (level, True), finding
    assert bool(finding.fix) is (level in (Level.WARN, Level.FAIL))


@pytest.mark.parametrize(
    ("version", "level"),
    [("v1.36.1", Level.OK), ("v1.31.0-eks-1", Level.OK), ("v1.30.9", Level.FAIL), ("?", Level.FAIL)],
)
def test_kubernetes(version: str, level: Level) -> None:
    _assert(cluster.kubernetes(_facts(version=version)), level, "at https://a")


@pytest.mark.parametrize(
    ("kinds", "level", "text"),
    [
        (ALL_KINDS, Level.OK, "workerpools"),
        (ALL_KINDS - {"workerpools"}, Level.FAIL, "missing: workerpools"),
        (frozenset(), Level.FAIL, "missing: disaggregatedservices, workerpools, performanceprofiles"),
    ],
)
def test_crds(kinds: frozenset[str], level: Level, text: str) -> None:
    _assert(cluster.crds(_facts(kinds=kinds)), level, text)


def _operator(*, ready: int = 1, **settings: str) -> dict[str, Any]:
    env: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in {"PROA_OPERATOR_IMAGE": "o:1", **settings}.items()
    ]
    env += [
        {"name": "PROA_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "PROA_OPERATOR_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    containers = [{"name": "operator", "env": env}]
    return {
        "metadata": {"namespace": "sys", "name": "proa"},
        "spec": {"template": {"spec": {"containers": containers}}},
        "status": {"readyReplicas": ready},
    }


@pytest.mark.parametrize(
    ("operators", "level", "text"),
    [
        (None, Level.SKIP, "rights"),
        ((), Level.FAIL, "none is installed"),
        ((_operator(),), Level.OK, "sys/proa, looks after namespace team"),
        ((_operator(PROA_WATCH_NAMESPACES="x,team"),), Level.OK, "looks after namespace team"),
        ((_operator(PROA_WATCH_NAMESPACES="x"),), Level.FAIL, "none for namespace team"),
        ((_operator(ready=0),), Level.FAIL, "1 without a ready pod"),
        ((_operator(PROA_FROM_THE_FUTURE="1"),), Level.WARN, "PROA_FROM_THE_FUTURE"),
    ],
)
def test_operator(operators: Any, level: Level, text: str) -> None:
    _assert(cluster.operator(_facts(operators=operators)), level, text)


def test_rights() -> None:
    drain = Right(command="drain", verb="patch", group="apps", resource="statefulsets")
    _assert(cluster.rights(_facts()), Level.OK, "every command in namespace team")
    _assert(cluster.rights(_facts(refused_rights=(drain,))), Level.WARN, "drain: patch statefulsets")


def _node(name: str, *, allocatable: int = 0, capacity: int | None = None, labels: Any = None) -> dict[str, Any]:
    def amounts(number: int) -> dict[str, str]:
        return {"cpu": "64", "memory": "1Ti", **({"amd.com/gpu": str(number)} if number else {})}

    whole = allocatable if capacity is None else capacity
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "status": {"allocatable": amounts(allocatable), "capacity": amounts(whole)},
    }


LABELLED = {"amd.com/gpu.device-id": "74a1"}


@pytest.mark.parametrize(
    ("nodes", "level", "text"),
    [
        (None, Level.SKIP, "rights"),
        ((_node("n1"),), Level.SKIP, "no GPU on 1 nodes"),
        ((_node("n1"), _node("n2", allocatable=8)), Level.OK, "8 amd.com/gpu on 1 of 2 nodes"),
        ((_node("n1", allocatable=7, capacity=8),), Level.WARN, "fewer than there are on n1"),
        ((_node("n1", allocatable=0, capacity=8),), Level.WARN, "fewer than there are on n1"),
        ((_node("n1", allocatable=8), _node("n2", labels=LABELLED)), Level.FAIL, "without a resource on n2"),
    ],
)
def test_device_plugin(nodes: Any, level: Level, text: str) -> None:
    _assert(cluster.device_plugin(_facts(nodes=nodes)), level, text)


@pytest.mark.parametrize(
    ("rdma", "gpus", "level"), [({}, 0, Level.SKIP), ({}, 8, Level.WARN), ({"amd.com/nic": "8"}, 8, Level.OK)]
)
def test_rdma(rdma: dict[str, str], gpus: int, level: Level) -> None:
    node = _node("n", allocatable=gpus)
    node["status"]["allocatable"] |= rdma
    assert cluster.rdma(_facts(nodes=(node,))).level is level


SCRAPED = _operator(PROA_PROMETHEUS_SELECTOR='{"namespaceLabels": {"a": "b"}}')
MONITORED: dict[str, Any] = {"optional_kinds": frozenset({"PodMonitor"}), "prometheus_pods": 2}


@pytest.mark.parametrize(
    ("found", "level", "text"),
    [
        ({}, Level.WARN, "does not know PodMonitor"),
        ({**MONITORED, "prometheus_pods": 0}, Level.WARN, "no pod is labelled"),
        ({**MONITORED, "prometheus_pods": None}, Level.SKIP, "rights"),
        ({**MONITORED, "operators": (_operator(),)}, Level.WARN, "let nobody scrape"),
        ({**MONITORED, "operators": (SCRAPED,)}, Level.OK, "2 pods"),
    ],
)
def test_prometheus(found: dict[str, Any], level: Level, text: str) -> None:
    _assert(cluster.prometheus(_facts(**found)), level, text)


def _class(name: str, *, is_default: bool = False) -> dict[str, Any]:
    return {"metadata": {"name": name, "annotations": {cluster.DEFAULT_CLASS: "true"} if is_default else {}}}


@pytest.mark.parametrize(
    ("classes", "level", "text"),
    [
        (None, Level.SKIP, "rights"),
        ((), Level.WARN, "there is: none"),
        ((_class("a"),), Level.WARN, "there is: a"),
        ((_class("a"), _class("b", is_default=True)), Level.OK, "b is the default"),
    ],
)
def test_storage(classes: Any, level: Level, text: str) -> None:
    _assert(cluster.storage(_facts(storage_classes=classes)), level, text)


@pytest.mark.parametrize(
    ("labels", "text"),
    [({}, "allows both profiles"), ({cluster.POD_SECURITY: "restricted"}, "enforces restricted"), (None, "rights")],
)
def test_pod_security(labels: Any, text: str) -> None:
    assert text in cluster.pod_security(_facts(namespace_labels=labels)).found


def test_every_check_is_run_once() -> None:
    names = [finding.check for finding in cluster.cluster_findings(_facts())]
    assert len(names) == len(set(names)) == len(cluster.CLUSTER_CHECKS)
