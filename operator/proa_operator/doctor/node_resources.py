"""What nodes offer. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from proa_operator.cluster.quantity import extended

Json = Mapping[str, Any]
GPU = re.compile(r"(amd\.com/(gpu|[scdq]px_nps\d)|nvidia\.com/gpu)")
RDMA = re.compile(r"(amd\.com/v?nic|rdma/.+)")
_GPU_LABELS = ("amd.com/gpu.device-id", "feature.node.kubernetes.io/amd-gpu", "feature.node.kubernetes.io/amd-vgpu")
_MOST_NAMES = 3


def offered(node: Json, resource: re.Pattern[str]) -> Counter[str]:
    """Allocatable amounts of the resources that match."""
    return _amounts(node, "allocatable", resource)


def lacks(node: Json, resource: re.Pattern[str]) -> bool:
    """It offers fewer than it has: the device plugin calls some of them unhealthy."""
    return bool(_amounts(node, "capacity", resource) - offered(node, resource))


def has_gpu(node: Json) -> bool:
    """As node feature discovery or AMD's labeller says."""
    labels = node["metadata"].get("labels") or {}
    return any(labels.get(name) not in (None, "", "false") for name in _GPU_LABELS)


def amounts_text(total: Counter[str]) -> str:
    """Such as "8 amd.com/gpu"."""
    return ", ".join(f"{amount} {name}" for name, amount in sorted(total.items()))


def names_text(names: Sequence[str]) -> str:
    """The first few names."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _amounts(node: Json, field: str, resource: re.Pattern[str]) -> Counter[str]:
    found = extended((node.get("status") or {}).get(field))
    return Counter({name: amount for name, amount in found.items() if resource.fullmatch(name) and amount})
