"""Services for the live tests: sim engine, pods played by kwok, on nodes that have the service's own label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.cluster import Document
from testbed.wait import until
from tests.cluster.live_api import RawApi
from tests.cluster.operator_process import condition

LABEL = "live"
PLAYED = "testbed.proa.dev/"
GPUS = 8
NODE_RESOURCES = {"amd.com/gpu": GPUS, "amd.com/nic": 8}
NODE_LABELS = {"amd.com/gpu.device-id": "74a1"}


def played_service(
    name: str,
    *,
    prefill: int = 1,
    decode: int = 1,
    nodes: tuple[int, int] = (1, 1),
    has_gpus: bool = False,
    label: str = "",
    notes: Mapping[str, str] | None = None,
    **spec: Any,
) -> Document:
    """`nodes` of a prefill and of a decode group; `notes` are annotations of the pods, `spec` replaces whole fields.

    Its nodes have the label LABEL with its name, or with `label`.
    """
    pod: Document = {"metadata": {"annotations": {key: str(value) for key, value in (notes or {}).items()}}}
    if has_gpus:
        pod["spec"] = {"volumes": [{"name": "cache", "persistentVolumeClaim": None, "emptyDir": {}}]}
        spec["accelerator"] = {"product": "MI300X", "gpusPerPod": GPUS}
    pools = {
        role: {
            "replicas": replicas,
            "nodesPerGroup": size,
            "parallelism": {"dp": GPUS * size if has_gpus else 1},
            "podTemplate": pod,
        }
        for role, replicas, size in (("prefill", prefill, nodes[0]), ("decode", decode, nodes[1]))
    }
    return {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "bundled://tiny-moe", "name": "m"},
            "engine": {"type": "sim"},
            "pools": pools,
            "kvTransfer": {"leaseSeconds": 10},
            "drain": {"timeoutSeconds": 60},
            "gateway": {"replicas": 1},
            "placement": {"requireLabels": {LABEL: label or name}},
            **spec,
        },
    }


def services(raw: RawApi, namespace: str) -> dict[str, Document]:
    """All of the namespace, by name."""
    found = raw.call("GET", raw.path("DisaggregatedService", namespace=namespace))["items"]
    return {one["metadata"]["name"]: one for one in found}


def await_settled(raw: RawApi, namespace: str, *names: str, seconds: float) -> dict[str, Document]:
    """These services, once each is Available, rolled out, and at its present generation."""

    def is_settled(one: Document) -> bool:
        has_followed = one.get("status", {}).get("observedGeneration") == one["metadata"]["generation"]
        return has_followed and condition(one, "Available") == "True" and condition(one, "Progressing") == "False"

    def all_of_them() -> dict[str, Document] | None:
        found = services(raw, namespace)
        return found if all(is_settled(found[name]) for name in names) else None

    return until(all_of_them, what=f"{', '.join(names)} to settle", seconds=seconds, every=0.5)
