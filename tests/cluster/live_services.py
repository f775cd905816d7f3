"""Services for the live tests: sim engine, pods played by kwok, on nodes that have the service's own label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.cluster import Document

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
