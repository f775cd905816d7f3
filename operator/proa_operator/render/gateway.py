"""Objects of the gateway: Deployment of `smg`, Service, PDB, ServiceAccount, RoleBinding, and an HTTPRoute if asked."""

from __future__ import annotations

from proa_operator import names
from proa_operator.api.autoscaling import Mode
from proa_operator.names import GATEWAY_PORTS, Component, Port
from proa_operator.render.gateway_command import API_KEY_ENV, POD_UID_ENV, TLS_ROOT, gateway_args
from proa_operator.render.metadata import child, common_labels, component_selector
from proa_operator.render.plain import plain
from proa_operator.render.security import container_security, pod_security
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings

_LEAVE_SECONDS = 5  # until all proxies have taken a terminating gateway out of the Service
_AFTER_DRAIN_SECONDS = 15  # smg itself waits 5 s for load balancers
_DISCOVERY_SECONDS = 10  # smg lists the workers that there are within 3 s
_UID_ENV: JsonObject = {"name": POD_UID_ENV, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}


def gateway_objects(service: Service, *, settings: RenderSettings) -> list[JsonObject]:
    """All objects of the gateway, ready for server-side apply."""
    objects = [
        _child(service, "v1", "ServiceAccount"),
        _role_binding(service, settings),
        _deployment(service, settings),
        _service(service),
        _disruption_budget(service),
    ]
    if service.spec.gateway.http_route.gateway:
        objects.append(_http_route(service))
    return plain(objects)


def _child(service: Service, api_version: str, kind: str) -> JsonObject:
    name = names.gateway_name(service.name)
    return child(service, api_version, kind, name, labels=_selector(service))


def _selector(service: Service) -> dict[str, str]:
    return component_selector(service, Component.GATEWAY)


def _role_binding(service: Service, settings: RenderSettings) -> JsonObject:
    """To the chart's role for gateways, in the service's namespace only: watching pods, nothing else."""
    kind = "ClusterRole" if settings.is_cluster_wide else "Role"
    binding = _child(service, "rbac.authorization.k8s.io/v1", "RoleBinding")
    subject = {"kind": "ServiceAccount", "name": names.gateway_name(service.name), "namespace": service.namespace}
    binding["roleRef"] = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": names.GATEWAY_ROLE}
    binding["subjects"] = [subject]
    return binding


def _deployment(service: Service, settings: RenderSettings) -> JsonObject:
    deployment = _child(service, "apps/v1", "Deployment")
    deployment["spec"] = {
        "replicas": service.spec.gateway.replicas,
        "revisionHistoryLimit": 1,  # the operator renders it anew, nobody rolls it back
        "selector": {"matchLabels": _selector(service)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": dict(sorted((common_labels(service) | _selector(service)).items()))},
            "spec": _pod(service, settings),
        },
    }
    return deployment


def _pod(service: Service, settings: RenderSettings) -> JsonObject:
    selector = _selector(service)
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector},
    }
    pod: JsonObject = {
        "serviceAccountName": names.gateway_name(service.name),
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": service.spec.drain.timeout_seconds + _LEAVE_SECONDS + _AFTER_DRAIN_SECONDS,
        "securityContext": pod_security(),
        "topologySpreadConstraints": [spread],
        "containers": [_container(service, settings)],
        "volumes": [{"name": "tmp", "emptyDir": {}}, *_tls_volume(service)],
    }
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    return pod


def _container(service: Service, settings: RenderSettings) -> JsonObject:
    tls = [{"name": "tls", "mountPath": TLS_ROOT, "readOnly": True}] if _tls_volume(service) else []
    return {
        "name": names.GATEWAY_CONTAINER,
        "image": settings.operator_image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["smg", "launch"],
        "args": gateway_args(service),
        "env": [{"name": "HOME", "value": "/tmp"}, _UID_ENV, *_key_env(service)],
        "ports": [{"name": port.value, "containerPort": number} for port, number in GATEWAY_PORTS.items()],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *tls],
        "lifecycle": {"preStop": {"sleep": {"seconds": _LEAVE_SECONDS}}},
        "startupProbe": _probe("/liveness", period=1, failures=60),
        "readinessProbe": _readiness(service),
        "livenessProbe": _probe("/liveness", period=10, failures=3),
    }


def _readiness(service: Service) -> JsonObject:
    """smg is ready once it has workers of each role, so a new gateway takes over only when it can serve.

    The gateway of a service that sleeps has none, and has to count the request that wakes it (ADR 20): it is ready as
    soon as it lives. A delay gives a new one the time to find the workers of a service that is awake.
    """
    if not _may_sleep(service):
        return _probe("/readiness", period=2, failures=2)
    return {**_probe("/liveness", period=2, failures=2), "initialDelaySeconds": _DISCOVERY_SECONDS}


def _may_sleep(service: Service) -> bool:
    scaling = service.spec.autoscaling
    return scaling.mode is not Mode.DISABLED and scaling.prefill.min == 0 and scaling.decode.min == 0


def _probe(path: str, *, period: int, failures: int) -> JsonObject:
    """The port of its own speaks plain HTTP, with TLS too, and asks for no key."""
    get = {"path": path, "port": GATEWAY_PORTS[Port.HEALTH]}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures}


def _key_env(service: Service) -> list[JsonObject]:
    ref = service.spec.gateway.api_key_secret_ref
    if not ref.name:
        return []
    return [{"name": API_KEY_ENV, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}]


def _tls_volume(service: Service) -> list[JsonObject]:
    secret = service.spec.gateway.tls.secret_name
    return [{"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}}] if secret else []


def _service(service: Service) -> JsonObject:
    port = {"name": Port.HTTP.value, "port": service.spec.gateway.port, "targetPort": Port.HTTP.value}
    found = _child(service, "v1", "Service")
    found["spec"] = {"type": "ClusterIP", "selector": _selector(service), "ports": [port]}
    return found


def _disruption_budget(service: Service) -> JsonObject:
    budget = _child(service, "policy/v1", "PodDisruptionBudget")
    budget["spec"] = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": _selector(service)},
    }
    return budget


def _http_route(service: Service) -> JsonObject:
    """Without a request timeout: a long answer streams for minutes."""
    asked = service.spec.gateway.http_route
    parent = {"name": asked.gateway}
    if asked.gateway_namespace:
        parent["namespace"] = asked.gateway_namespace
    backend = {"name": names.gateway_name(service.name), "port": service.spec.gateway.port}
    route = _child(service, "gateway.networking.k8s.io/v1", "HTTPRoute")
    route["spec"] = {
        "parentRefs": [parent],
        "rules": [{"backendRefs": [backend], "timeouts": {"request": "0s"}}],
    }
    if asked.hostnames:
        route["spec"]["hostnames"] = list(asked.hostnames)
    return route
