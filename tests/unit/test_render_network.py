"""NetworkPolicies against the whole table of flows: an evaluator of the policies' meaning, and every pair of pods.

A pod without a policy of a direction lets everything through in that direction; otherwise one rule must match.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from proa_operator import names
from proa_operator.api.engine import EngineType
from proa_operator.api.service import ServiceSpec
from proa_operator.names import GATEWAY_PORTS, WORKER_PORTS, Port, Role
from proa_operator.render import (
    PodSelector,
    RenderSettings,
    Service,
    download_objects,
    gateway_objects,
    group_objects,
    revision_objects,
    service_objects,
)

Policy = dict[str, Any]
SETTINGS = RenderSettings(
    operator_image="operator:1",
    engine_images={engine: f"{engine.value}:1" for engine in EngineType},
    operator_namespace="proa-system",
    operator_labels={"app": "proa-operator"},
    prometheus=PodSelector(namespace_labels={"monitoring": "yes"}, pod_labels={"app": "prometheus"}),
)
REVISIONS = ("aaaaaaaa", "bbbbbbbb")
NAMESPACE_LABELS: dict[str, dict[str, str]] = {"team": {}, "other": {}, "proa-system": {}, "obs": {"monitoring": "yes"}}
for name, labels in NAMESPACE_LABELS.items():
    labels[names.NAMESPACE_NAME_LABEL] = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """`kind` is its row in the table; without a namespace it is a client or server outside the cluster."""

    kind: str
    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def matches(self, selector: dict[str, Any]) -> bool:
        assert set(selector) <= {"matchLabels"}, "the evaluator knows matchLabels only"
        return dict(selector.get("matchLabels", {})).items() <= dict(self.labels).items()


# --- the evaluator -------------------------------------------------------------------------------------------------


def is_allowed(policies: list[Policy], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether the source's egress and the target's ingress both let a connection through."""
    return _passes(policies, source, target, port, protocol, "Egress") and _passes(
        policies, target, source, port, protocol, "Ingress"
    )


def _passes(policies: list[Policy], pod: Pod, peer: Pod, port: int, protocol: str, direction: str) -> bool:
    applying = [policy for policy in policies if pod.namespace and _selects(policy, pod, direction)]
    peers = "from" if direction == "Ingress" else "to"
    rules = [(policy, rule) for policy in applying for rule in policy["spec"].get(direction.lower(), [])]
    matching = (
        _has_peer(policy, rule.get(peers), peer) and _has_port(rule.get("ports"), port, protocol)
        for policy, rule in rules
    )
    return not applying or any(matching)


def _selects(policy: Policy, pod: Pod, direction: str) -> bool:
    spec = policy["spec"]
    is_here = policy["metadata"]["namespace"] == pod.namespace
    return is_here and direction in spec["policyTypes"] and pod.matches(spec["podSelector"])


def _has_peer(policy: Policy, peers: list[dict[str, Any]] | None, pod: Pod) -> bool:
    return not peers or any(_is_peer(policy, peer, pod) for peer in peers)


def _is_peer(policy: Policy, peer: dict[str, Any], pod: Pod) -> bool:
    assert set(peer) <= {"podSelector", "namespaceSelector"}, "the evaluator knows selectors only"
    if not pod.namespace:
        return False
    if "namespaceSelector" in peer:
        wanted = peer["namespaceSelector"].get("matchLabels", {})
        is_here = wanted.items() <= NAMESPACE_LABELS[pod.namespace].items()
    else:
        is_here = policy["metadata"]["namespace"] == pod.namespace
    return is_here and pod.matches(peer.get("podSelector", {}))


def _has_port(ports: list[dict[str, Any]] | None, port: int, protocol: str) -> bool:
    return not ports or any(
        one["protocol"] == protocol and one["port"] <= port <= one.get("endPort", one["port"]) for one in ports
    )


# --- the world -----------------------------------------------------------------------------------------------------


def _service(name: str = "a", namespace: str = "team", **spec: Any) -> Service:
    document = {"model": {"uri": "hf://org/m", "name": "m"}, "engine": {"type": "sim"}, "pools": _POOLS} | spec
    read = ServiceSpec.model_validate_json(json.dumps(document))
    return Service(name=name, namespace=namespace, uid=name, spec=read)


_POOLS = {"prefill": {}, "decode": {}}


def _objects(service: Service, settings: RenderSettings = SETTINGS) -> list[dict[str, Any]]:
    groups = [
        one
        for revision in REVISIONS
        for role in Role
        for index in (0, 1)
        for one in group_objects(service, revision=revision, role=role, index=index, settings=settings)
    ]
    shared = [one for revision in REVISIONS for one in revision_objects(service, revision=revision)]
    return [
        *groups,
        *shared,
        *service_objects(service, settings=settings),
        *gateway_objects(service, settings=settings),
        *download_objects(service, settings=settings),
    ]


def _policies(objects: list[dict[str, Any]]) -> list[Policy]:
    return [one for one in objects if one["kind"] == "NetworkPolicy"]


def _pods_of(objects: list[dict[str, Any]], prefix: str) -> Iterator[Pod]:
    """One pod of each rendered template; its kind is PREFIX-ROLE-REVISION-INDEX, PREFIX-gateway or PREFIX-download."""
    for one in objects:
        if one["kind"] not in ("StatefulSet", "Deployment", "Job"):
            continue
        labels = one["spec"]["template"]["metadata"]["labels"]
        parts = {"Deployment": ["gateway"], "Job": ["download"]}.get(one["kind"]) or [
            labels[label] for label in (names.ROLE_LABEL, names.REVISION_LABEL, names.GROUP_INDEX_LABEL)
        ]
        kind = "-".join([prefix, *parts])
        yield Pod(kind=kind, namespace=one["metadata"]["namespace"], labels=tuple(sorted(labels.items())))


def _stranger(kind: str, namespace: str, **labels: str) -> Pod:
    return Pod(kind=kind, namespace=namespace, labels=tuple(labels.items()))


STRANGERS = [
    Pod(kind="outside"),
    _stranger("operator", "proa-system", app="proa-operator"),
    _stranger("prometheus", "obs", app="prometheus"),
    _stranger("operator-label-elsewhere", "team", app="proa-operator"),
    _stranger("prometheus-label-elsewhere", "team", app="prometheus"),
    _stranger("operator-neighbour", "proa-system", app="other"),
    _stranger("neighbour", "team"),
    Pod(kind="other-gateway", namespace="team", labels=((names.COMPONENT_LABEL, "gateway"),)),
    Pod(kind="a-newcomer", namespace="team", labels=((names.SERVICE_LABEL, "a"),)),
]
KV_PORTS = {WORKER_PORTS[Port.KV], WORKER_PORTS[Port.KV_DATA]}
PORTS = sorted({*WORKER_PORTS.values(), *GATEWAY_PORTS.values(), 53, 80, 443, 6443, 5600, 12345})


def _world(service: Service) -> tuple[list[Policy], list[Pod]]:
    """The service, one of another name beside it, and one of its name in another namespace."""
    own, beside, far = _objects(service), _objects(_service("b")), _objects(_service("a", "other"))
    pods = [*_pods_of(own, "a"), *_pods_of(beside, "b"), *_pods_of(far, "far"), *STRANGERS]
    return _policies([*own, *beside, *far]), pods


# --- the table of docs/children.md -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A flow that is let through; no ports are all ports."""

    source: str
    target: str
    ports: frozenset[int]

    def has(self, port: int) -> bool:
        return not self.ports or port in self.ports


def _read_table() -> list[Row]:
    text = (Path(__file__).parents[2] / "docs" / "children.md").read_text(encoding="utf-8")
    lines = text.split("## Network flows")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [
        Row(source=source, target=target, ports=frozenset(int(port) for port in ports.split(",") if port != "all"))
        for source, target, ports, _ in cells[2:]
    ]


TABLE = _read_table()
PARTS = {"gateway": "gateway", "download": "model download", "prefill": "worker", "decode": "worker"}


def _service_of(pod: Pod) -> str:
    """a, b or far; empty for a stranger."""
    service = pod.kind.split("-")[0]
    return service if service in ("a", "b", "far") else ""


def _part(pod: Pod) -> str:
    """gateway, worker or model download; empty for a stranger."""
    return PARTS.get(pod.kind.split("-")[1], "") if _service_of(pod) else ""


@cache
def _is_in_table(source: Pod, target: Pod, port: int) -> bool:
    return _may_leave(source, target, port) and _may_enter(source, target, port)


def _may_leave(source: Pod, target: Pod, port: int) -> bool:
    if not _service_of(source):
        return True
    rows = [row for row in TABLE if _is_source(row, source, target) and row.has(port) and row.source != "anyone"]
    is_own = _service_of(source) == _service_of(target)
    return any(row.target == "anywhere" or (is_own and row.target == _part(target)) for row in rows)


def _may_enter(source: Pod, target: Pod, port: int) -> bool:
    if not _service_of(target):
        return True
    rows = [row for row in TABLE if row.target == _part(target) and row.has(port)]
    return any(_is_source(row, source, target) for row in rows)


def _is_source(row: Row, source: Pod, target: Pod) -> bool:
    if row.source in ("operator", "Prometheus"):
        return source.kind == row.source.lower()
    if row.source == "worker of the same revision":
        is_own = _service_of(source) == _service_of(target)
        return is_own and _part(source) == _part(target) == "worker" and _revision(source) == _revision(target)
    if row.target == "anywhere":
        return row.source == _part(source)
    return row.source == "anyone" or (row.source == _part(source) and _service_of(source) == _service_of(target))


def _revision(pod: Pod) -> str:
    return dict(pod.labels)[names.REVISION_LABEL]


def test_the_table_is_read() -> None:
    assert {row.source for row in TABLE} == {
        "anyone", "gateway", "worker of the same revision", "worker", "operator", "Prometheus", "model download",
    }  # fmt: skip
    assert len(TABLE) == 10


def _differences(policies: list[Policy], pods: list[Pod]) -> list[str]:
    """Flows of service a that the policies and the table disagree on."""
    own = [pod for pod in pods if pod.kind.startswith("a-")]
    pairs = {(source, target) for pod in own for peer in pods for source, target in ((pod, peer), (peer, pod))}
    return sorted(
        f"{source.kind} -> {target.kind}:{port}"
        for source, target in pairs
        if source is not target
        for port in PORTS
        if is_allowed(policies, source, target, port) != _is_in_table(source, target, port)
    )


# --- tests -----------------------------------------------------------------------------------------------------------


def test_all_flows_are_those_of_the_table() -> None:
    policies, pods = _world(_service())
    assert len([pod for pod in pods if pod.kind.startswith("a-")]) == 11
    assert _differences(policies, pods) == []


def _drop_revision(policies: list[Policy]) -> None:
    for policy in policies:
        if policy["metadata"]["name"].endswith("-kv"):
            policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"].pop(names.REVISION_LABEL)
            policy["spec"]["egress"][0]["to"][0]["podSelector"]["matchLabels"].pop(names.REVISION_LABEL)


def _drop_service(policies: list[Policy]) -> None:
    for policy in policies:
        if policy["metadata"]["name"] == "a-engine":
            policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"].pop(names.SERVICE_LABEL)


def _drop_namespace(policies: list[Policy]) -> None:
    for policy in policies:
        if policy["metadata"]["name"] == "a-admin":
            policy["spec"]["ingress"][0]["from"][0].pop("namespaceSelector")


def _drop_ports(policies: list[Policy]) -> None:
    for policy in policies:
        if policy["metadata"]["name"] == "a-worker-metrics":
            policy["spec"]["ingress"][0].pop("ports")


def _drop_default_deny(policies: list[Policy]) -> None:
    policies[:] = [policy for policy in policies if not policy["metadata"]["name"].endswith("default-deny")]


def _drop_kv(policies: list[Policy]) -> None:
    policies[:] = [policy for policy in policies if not policy["metadata"]["name"].endswith("-kv")]


def _drop_egress(policies: list[Policy]) -> None:
    for policy in policies:
        if policy["metadata"]["name"] == "a-gateway":
            policy["spec"]["policyTypes"] = ["Ingress"]


@pytest.mark.parametrize(
    "fault",
    [_drop_revision, _drop_service, _drop_namespace, _drop_ports, _drop_kv, _drop_default_deny, _drop_egress],
)
def test_a_planted_fault_is_found(fault: Callable[[list[Policy]], None]) -> None:
    policies, pods = _world(_service())
    broken = copy.deepcopy(policies)
    fault(broken)
    assert _differences(broken, pods), "the table did not notice the fault"


def test_names_are_resolved_over_udp_too() -> None:
    policies, pods = _world(_service())
    outside = next(pod for pod in pods if pod.kind == "outside")
    own = [pod for pod in pods if pod.kind.startswith("a-") and pod.kind != "a-newcomer"]
    assert all(is_allowed(policies, pod, outside, 53, "UDP") for pod in own)


def test_rdma_backends_open_ports_within_the_revision_only_and_never_the_other_four() -> None:
    service = _service(kvTransfer={"backend": "nixl"}, engine={"type": "vllm"})
    policies, pods = _world(service)
    prefill, decode, newer = (
        _pod(pods, f"a-{kind}-0") for kind in ("prefill-aaaaaaaa", "decode-aaaaaaaa", "decode-bbbbbbbb")
    )
    for port in (5600, 1024, 9099, 9101, 50050, 50055, 65535, *KV_PORTS):
        assert is_allowed(policies, decode, prefill, port), port
        assert not is_allowed(policies, newer, prefill, port), port
    for port in (80, 9100, 50051, 50054):
        assert not is_allowed(policies, decode, prefill, port), port


def test_pods_of_a_group_over_several_nodes_reach_each_other_on_all_ports() -> None:
    service = _service(engine={"type": "vllm"}, pools={"prefill": {}, "decode": {"nodesPerGroup": 2}})
    policies, pods = _world(service)
    first, second = _pod(pods, "a-decode-aaaaaaaa-0"), _pod(pods, "a-decode-aaaaaaaa-1")
    assert is_allowed(policies, first, first, 12345), "two pods of one group have the same labels"
    assert not is_allowed(policies, first, second, 12345), "two groups"
    assert not is_allowed(policies, _pod(pods, "a-prefill-aaaaaaaa-0"), first, 12345)


def test_without_a_prometheus_nobody_scrapes() -> None:
    settings = RenderSettings(
        operator_image="o",
        engine_images=SETTINGS.engine_images,
        operator_namespace="proa-system",
        operator_labels={"app": "proa-operator"},
    )
    objects = _objects(_service(), settings)
    pods = [*_pods_of(objects, "a"), *STRANGERS]
    target = _pod(pods, "a-decode-aaaaaaaa-0")
    assert not any(is_allowed(_policies(objects), pod, target, WORKER_PORTS[Port.METRICS]) for pod in pods)


def test_policies_can_be_switched_off() -> None:
    service = _service(security={"networkPolicy": "Disabled"}, pools={"decode": {"nodesPerGroup": 2}, "prefill": {}})
    assert _policies(_objects(service)) == []


def _pod(pods: list[Pod], kind: str) -> Pod:
    return next(pod for pod in pods if pod.kind == kind)
