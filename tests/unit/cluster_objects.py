"""Objects as an API server has them, for the tests of the shell."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
SERVICE_UID = "uid-tiny"
REVISION = "0a1b2c3d"
OWNER = [{"apiVersion": "proa.dev/v1alpha1", "kind": "DisaggregatedService", "name": "tiny", "uid": SERVICE_UID}]


def meta(name: str, *, version: int = 1, uid: str = "", labels: Json | None = None, **more: Any) -> Json:
    return {
        "name": name,
        "namespace": "default",
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-31T00:00:00Z",
        "labels": {"proa.dev/service": "tiny", **(labels or {})},
        **more,
    }


def owned() -> list[Json]:
    return [{**OWNER[0], "controller": True}]


def service_body(*, version: int = 1, status: Json | None = None, **spec: Any) -> Json:
    return {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {**meta("tiny", version=version), "labels": {}},
        "spec": {
            "model": {"uri": "bundled://tiny-moe", "name": "tiny-moe"},
            "engine": {"type": "sim"},
            "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}},
            **spec,
        },
        **({"status": status} if status else {}),
    }


def group_labels(role: str = "decode", index: int = 0) -> Json:
    return {
        "proa.dev/group": f"tiny-{REVISION}-{role}-{index:03d}",
        "proa.dev/revision": REVISION,
        "proa.dev/role": role,
        "proa.dev/group-index": str(index),
    }


def set_body(role: str = "decode", index: int = 0, *, version: int = 1, notes: Json | None = None) -> Json:
    labels = group_labels(role, index)
    name = labels["proa.dev/group"]
    return {
        "kind": "StatefulSet",
        "metadata": meta(name, version=version, labels=labels, annotations=notes or {}, ownerReferences=owned()),
        "spec": {"replicas": 1},
    }


def pod_body(
    role: str = "decode",
    index: int = 0,
    *,
    version: int = 1,
    node: str = "",
    gated: bool = False,
    loaded: bool = False,
    routable: str = "",
    gpus: int = 0,
    **status: Any,
) -> Json:
    labels = {**group_labels(role, index), "apps.kubernetes.io/pod-index": "0"}
    container: Json = {"name": "worker"}
    if gpus:
        container["resources"] = {"requests": {"amd.com/gpu": str(gpus), "cpu": "4"}}
    conditions = []
    if loaded:
        conditions.append({"type": "ContainersReady", "status": "True", "lastTransitionTime": "2026-01-31T00:01:00Z"})
    if routable:
        conditions.append({"type": "proa.dev/routable", "status": routable, "reason": "Routable"})
    spec: Json = {"containers": [container], **({"nodeName": node} if node else {})}
    if gated:
        spec["schedulingGates"] = [{"name": "proa.dev/gang"}]
    return {
        "kind": "Pod",
        "metadata": meta(f"{labels['proa.dev/group']}-0", version=version, labels=labels),
        "spec": spec,
        "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": conditions, **status},
    }


def node_body(name: str = "n0", *, version: int = 1, gpus: int = 8, ready: bool = True) -> Json:
    amounts = {"amd.com/gpu": str(gpus), "cpu": "64"}
    return {
        "kind": "Node",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "labels": {"zone": "a"}},
        "spec": {},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }
