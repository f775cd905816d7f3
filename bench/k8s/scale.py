"""How large the cluster of a run is, and the service that it has so many of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
GPU = "amd.com/gpu"
GPU_LABELS = {"amd.com/gpu.device-id": "74a1"}  # an MI300X, as its node labeller writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Groups of one service: prefill groups have one pod, decode groups `decode_nodes`; a gateway has one pod."""

    prefill_groups: int = 3
    decode_groups: int = 2
    decode_nodes: int = 6

    @property
    def pods(self) -> int:
        """Of one service."""
        return self.prefill_groups + self.decode_groups * self.decode_nodes + 1


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
    settle_seconds: float = 15.0
    """Between bring-up and rest, and before the leader is killed."""
    shape: Shape = Shape()

    def __post_init__(self) -> None:
        if self.changes > self.services:
            raise ValueError(f"{self.changes} changes need as many services, not {self.services}: lower --changes")
        if self.namespaces > self.services:
            raise ValueError(f"{self.namespaces} namespaces for {self.services} services: lower --namespaces")
        if 8 * self.nodes < self.pods:
            raise ValueError(f"{self.services} services need {-(-self.pods // 8)} nodes of 8 GPUs: raise --nodes")

    @property
    def pods(self) -> int:
        """Pods of all services."""
        return self.services * self.shape.pods

    def namespace_of(self, number: int) -> str:
        """Of the service with that number."""
        return f"scale-{number % self.namespaces:03d}"


def service_name(number: int) -> str:
    """Of the service with that number."""
    return f"s{number:04d}"


def service(number: int, shape: Shape, prefill_ip: str, decode_ip: str) -> Document:
    """The manifest; played pods have the given addresses."""

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
                "prefill": pool(shape.prefill_groups, 1, prefill_ip),
                "decode": pool(shape.decode_groups, shape.decode_nodes, decode_ip),
            },
            "kvTransfer": {"leaseSeconds": 5},
            "drain": {"timeoutSeconds": 60},
            "gateway": {"replicas": 1, "port": 8000},
        },
    }
