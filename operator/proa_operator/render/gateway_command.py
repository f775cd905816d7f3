"""Command line of the gateway in a pod: workers come from Kubernetes discovery."""

from __future__ import annotations

from proa_operator import names
from proa_operator.api.autoscaling import Mode
from proa_operator.api.service import Topology
from proa_operator.names import GATEWAY_PORTS, WORKER_PORTS, Component, Port, Role
from proa_operator.render.gateway_flags import AGGREGATED_POLICY, PAIRED_POLICIES, gateway_flags, words
from proa_operator.render.metadata import component_selector
from proa_operator.render.service import Service

API_KEY_ENV = "GATEWAY_API_KEY"
POD_UID_ENV = "POD_UID"
TLS_ROOT = "/tls"
_ANY_ADDRESS = "0.0.0.0"


def gateway_args(service: Service) -> list[str]:
    """Arguments of `smg launch`; the manifest's `gateway.args` come last."""
    options = gateway_flags(service.spec, smallest_pool=_smallest_pool(service)) | {
        "host": _ANY_ADDRESS,
        "port": GATEWAY_PORTS[Port.HTTP],
        "health-check-port": GATEWAY_PORTS[Port.HEALTH],
        "prometheus-host": _ANY_ADDRESS,
        "prometheus-port": GATEWAY_PORTS[Port.METRICS],
        "service-discovery-port": WORKER_PORTS[Port.ENGINE],
        "service-discovery-namespace": service.namespace,
    }
    # smg lets any client add backends by URL unless its control plane has a key. Nobody needs one here, so it is the
    # pod's UID, which is random and known only to those who may read pods.
    options["control-plane-api-keys"] = f"locked:locked:admin:$({POD_UID_ENV})"
    if service.spec.gateway.tls.secret_name:
        options |= {"tls-cert-path": f"{TLS_ROOT}/tls.crt", "tls-key-path": f"{TLS_ROOT}/tls.key"}
    if service.spec.gateway.api_key_secret_ref.name:
        options["api-key"] = f"$({API_KEY_ENV})"  # expanded by the kubelet: the key is in no object
    discovery = ["--log-json", "--service-discovery", *_selectors(service)]
    return [*words(options), *discovery, *service.spec.gateway.args]


def _smallest_pool(service: Service) -> int:
    scaling = service.spec.autoscaling
    sizes = {role: service.pool(role).replicas for role in service.roles}
    if scaling.mode is Mode.ACTIVE:
        sizes = {role: scaling.prefill.min if role is Role.PREFILL else scaling.decode.min for role in sizes}
    return sum(sizes.values()) if service.is_aggregated else min(sizes.values())


def leader_selector(service: Service, role: Role | None = None) -> dict[str, str]:
    """Workers that the gateway sends requests to: the leaders of all groups, of a role or of an aggregated service."""
    topology = Topology.AGGREGATED if role is None else Topology.DISAGGREGATED
    selector = component_selector(service, Component.WORKER) | {
        names.TOPOLOGY_LABEL: topology.value,
        names.POD_INDEX_LABEL: "0",
    }
    return selector if role is None else selector | {names.ROLE_LABEL: role.value}


def _selectors(service: Service) -> list[str]:
    if service.is_aggregated:
        return [*AGGREGATED_POLICY, "--selector", *_pairs(leader_selector(service))]
    prefill, decode = (_pairs(leader_selector(service, role)) for role in (Role.PREFILL, Role.DECODE))
    return [*PAIRED_POLICIES, "--prefill-selector", *prefill, "--decode-selector", *decode]


def _pairs(selector: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(selector.items())]
