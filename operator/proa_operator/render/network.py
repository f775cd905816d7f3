"""NetworkPolicies: the known flows, and nothing else. The table of flows is in docs/children.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proa_operator import names
from proa_operator.api.kv_transfer import Backend
from proa_operator.api.security import NetworkPolicy
from proa_operator.names import DOWNLOAD_PORTS, GATEWAY_PORTS, WORKER_PORTS, Component, Port
from proa_operator.render.metadata import Group, child, component_selector, revision_selector
from proa_operator.render.model_source import is_downloaded
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import PodSelector, RenderSettings

_API_SERVER_PORTS = (443, 6443)
_DNS: JsonObject = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
_NEXT_PORTS = ((1024, 9099), (9101, 50050), (50055, 65535))
"""All ports of a worker but the five of WORKER_PORTS: NIXL and MORI choose ports while they run."""


def service_policies(service: Service, settings: RenderSettings) -> list[JsonObject]:
    """Policies of a service that are the same for all its revisions; none when they are switched off."""
    if service.spec.security.network_policy is NetworkPolicy.DISABLED:
        return []
    policies = [_default_deny(service), _engine(service), _admin(service, settings), _gateway(service)]
    if not settings.prometheus.is_empty:
        policies += [_metrics(service, settings, Component.WORKER, WORKER_PORTS[Port.METRICS])]
        policies += [_metrics(service, settings, Component.GATEWAY, GATEWAY_PORTS[Port.METRICS])]
    if is_downloaded(service.spec):
        policies.append(_download(service, settings))
    return policies


def revision_policies(service: Service, revision: str) -> list[JsonObject]:
    """Workers of one revision reach each other's KvControl and transports; policies cannot say "the same label"."""
    if service.spec.security.network_policy is NetworkPolicy.DISABLED:
        return []
    selector = revision_selector(service, revision)
    ports = _ports(WORKER_PORTS[Port.KV], WORKER_PORTS[Port.KV_DATA])
    if service.spec.kv_transfer.backend in (Backend.NIXL, Backend.MORI):
        ports += [{"protocol": "TCP", "port": first, "endPort": last} for first, last in _NEXT_PORTS]
    peers = [_pods(selector)]
    policy = _policy(
        service,
        f"{revision}-kv",
        selector,
        ingress=[{"from": peers, "ports": ports}],
        egress=[{"to": peers, "ports": ports}, _DNS],
    )
    policy["metadata"]["labels"][names.REVISION_LABEL] = revision
    return [policy]


def group_policy(group: Group) -> JsonObject:
    """Pods of a group over several nodes reach each other on all ports: collectives choose theirs while they run."""
    policy = child(group.service, "networking.k8s.io/v1", "NetworkPolicy", group.name, labels=group.labels)
    peers = [_pods(group.selector)]
    policy["spec"] = {
        "podSelector": {"matchLabels": group.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers}],
        "egress": [{"to": peers}],
    }
    return policy


def _default_deny(service: Service) -> JsonObject:
    return _policy(service, "default-deny", {names.SERVICE_LABEL: service.name}, ingress=[], egress=[])


def _engine(service: Service) -> JsonObject:
    gateway = _pods(component_selector(service, Component.GATEWAY))
    rule = {"from": [gateway], "ports": _ports(WORKER_PORTS[Port.ENGINE])}
    return _policy(service, "engine", component_selector(service, Component.WORKER), ingress=[rule])


def _admin(service: Service, settings: RenderSettings) -> JsonObject:
    rule = {"from": [_operator(settings)], "ports": _ports(WORKER_PORTS[Port.ADMIN])}
    return _policy(service, "admin", component_selector(service, Component.WORKER), ingress=[rule])


def _gateway(service: Service) -> JsonObject:
    """Clients come from anywhere; the gateway reaches engines, names, and the API server that lists its workers."""
    engines = _pods(component_selector(service, Component.WORKER))
    return _policy(
        service,
        "gateway",
        component_selector(service, Component.GATEWAY),
        ingress=[{"ports": _ports(GATEWAY_PORTS[Port.HTTP])}],
        egress=[
            {"to": [engines], "ports": _ports(WORKER_PORTS[Port.ENGINE])},
            _DNS,
            {"ports": _ports(*_API_SERVER_PORTS)},
        ],
    )


def _metrics(service: Service, settings: RenderSettings, component: Component, port: int) -> JsonObject:
    rule = {"from": [_peer(settings.prometheus)], "ports": _ports(port)}
    return _policy(service, f"{component.value}-metrics", component_selector(service, component), ingress=[rule])


def _download(service: Service, settings: RenderSettings) -> JsonObject:
    """The only pod of a service that reaches out of the cluster; the operator reads its progress."""
    progress = {"from": [_operator(settings)], "ports": _ports(DOWNLOAD_PORTS[Port.PROGRESS])}
    selector = component_selector(service, Component.DOWNLOAD)
    return _policy(service, "model-download", selector, ingress=[progress], egress=[{}])


def _policy(
    service: Service,
    flow: str,
    selector: Mapping[str, str],
    *,
    ingress: Iterable[JsonObject],
    egress: Iterable[JsonObject] | None = None,
) -> JsonObject:
    """Without `egress` the policy says nothing about what the pods may reach."""
    policy = child(service, "networking.k8s.io/v1", "NetworkPolicy", names.policy_name(service.name, flow))
    spec: JsonObject = {"podSelector": {"matchLabels": dict(selector)}, "policyTypes": ["Ingress"]}
    if rules := list(ingress):
        spec["ingress"] = rules
    if egress is not None:
        spec["policyTypes"] = ["Ingress", "Egress"]
        if rules := list(egress):
            spec["egress"] = rules
    policy["spec"] = spec
    return policy


def _operator(settings: RenderSettings) -> JsonObject:
    labels = {names.NAMESPACE_NAME_LABEL: settings.operator_namespace}
    return _peer(PodSelector(namespace_labels=labels, pod_labels=settings.operator_labels))


def _peer(selector: PodSelector) -> JsonObject:
    return {
        "namespaceSelector": {"matchLabels": dict(sorted(selector.namespace_labels.items()))},
        "podSelector": {"matchLabels": dict(sorted(selector.pod_labels.items()))},
    }


def _pods(labels: Mapping[str, str]) -> JsonObject:
    """Pods of the service's own namespace."""
    return {"podSelector": {"matchLabels": dict(labels)}}


def _ports(*numbers: int) -> list[JsonObject]:
    return [{"protocol": "TCP", "port": number} for number in numbers]
