"""How large the cluster of a run is, and the service that it has so many of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
GPU = "amd.com/gpu"
GPU_LABELS = {"amd.com/gpu.device-id": "74a1"}  # an MI300X, as its node labeller writes it
PREFILL_GROUPS, DECODE_GROUPS, DECODE_NODES = 7, 2, 4
PODS_PER_SERVICE = PREFILL_GROUPS + DECODE_GROUPS * DECODE_NODES + 1  # and one gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """`services` are spread evenly over `namespaces`; each node has 8 GPUs and each worker pod asks for one."""

    services: int
    nodes: int
    namespaces: int
    changes: int
    """Changes whose latency is measured; each to a service of its own."""
    changes_per_second: float
    rest_seconds: float

    def __post_init__(self) -> None:
        if self.changes > self.services:
            raise ValueError(f"{self.changes} changes need as many services, not {self.services}: lower --changes")
        if 8 * self.nodes < self.services * PODS_PER_SERVICE:
            needed = -(-self.services * PODS_PER_SERVICE // 8)
            raise ValueError(f"{self.services} services need {needed} nodes of 8 GPUs: raise --nodes")

    @property
    def pods(self) -> int:
        """Pods of all services."""
        return self.services * PODS_PER_SERVICE

    def namespace_of(self, number: int) -> str:
        """Of the service with that number."""
        return f"scale-{number % self.namespaces:03d}"


def service_name(number: int) -> str:
    """Of the service with that number."""
    return f"s{number:04d}"


def service(number: int, prefill_ip: str, decode_ip: str) -> Document:
    """7 prefill groups of one pod, 2 decode groups of four pods, one gateway; played pods have the given addresses."""

    def pool(replicas: int, nodes: int, ip: str) -> Document:
        return {
            "replicas": replicas,
            "nodesPerGroup": nodes,
            "parallelism": {"tp": 1, "dp": nodes},
            "podTemplate": {"metadata": {"annotations": {"testbed.proa.dev/pod-ip": ip}}},
        }

    return {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": service_name(number)},
        "spec": {
            "topology": "Disaggregated",
            "model": {"uri": "bundled://tiny-moe", "name": "tiny-moe"},
            "engine": {"type": "sim"},
            "accelerator": {"product": "MI300X", "resourceName": GPU, "gpusPerPod": 1},
            "pools": {
                "prefill": pool(PREFILL_GROUPS, 1, prefill_ip),
                "decode": pool(DECODE_GROUPS, DECODE_NODES, decode_ip),
            },
            "kvTransfer": {"leaseSeconds": 5},
            "drain": {"timeoutSeconds": 60},
            "gateway": {"replicas": 1, "port": 8000},
        },
    }
