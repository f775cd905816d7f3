"""Who else has written to an object, from its managedFields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proa_operator import names

_OURS = (names.MANAGER, names.REPLICAS_MANAGER, names.MARKS_MANAGER)
_CLUSTER = ("kube-", "kubelet", "kwok", "k3s", "cloud-controller-manager", "ttl-controller")
"""Controllers of the cluster: what they write is either theirs or comes from what we applied."""
_SCALERS = ("kube-controller-manager", "keda")
"""Controllers that size what a HorizontalPodAutoscaler or a ScaledObject of KEDA names."""


def touched_at(meta: Mapping[str, Any]) -> str:
    """Latest time at which another manager wrote to the object itself; empty if not since our last apply.

    An entry's time changes only when what it says does, and an apply that takes fields back renews ours.
    """
    ours, others = "", ""
    for entry in meta.get("managedFields") or ():
        if entry.get("subresource"):
            continue
        manager, time = entry.get("manager", ""), entry.get("time", "")
        if manager == names.MANAGER and entry.get("operation") == "Apply":
            ours = time
        elif manager not in _OURS and not manager.startswith(_CLUSTER):
            others = max(others, time)
    return others if ours and others >= ours else ""


def scaler_of(meta: Mapping[str, Any]) -> str:
    """Manager of the controller that owns spec.replicas by its last write through /scale; empty for anybody else.

    A field that another manager sets to another value is taken from its owner, so a write by hand ends this.
    """
    for entry in meta.get("managedFields") or ():
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        manager = str(entry.get("manager", ""))
        if entry.get("subresource") == "scale" and "f:replicas" in fields and manager.startswith(_SCALERS):
            return manager
    return ""
