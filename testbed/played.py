"""Nodes that exist only in the API: kwok plays their pods by `stages/`; docs/testbed.md has the annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testbed.cluster import Cluster
from testbed.store import SOURCES

MANAGED = "kwok.x-k8s.io/node"


def stage_files() -> list[Path]:
    """The stages, in the order of a pod's life."""
    return sorted((SOURCES / "stages").glob("*.yaml"))


def node_manifest(name: str, *, resources: Mapping[str, int | str], labels: Mapping[str, str]) -> dict[str, Any]:
    """A node that kwok keeps Ready, with `resources` (as {"amd.com/gpu": 8}) on top of ample CPU, memory and pods."""
    amounts = {"cpu": "256", "memory": "2Ti", "pods": "250", "ephemeral-storage": "10Ti"}
    amounts |= {key: str(value) for key, value in resources.items()}
    metadata = {
        "name": name,
        "annotations": {MANAGED: "fake"},
        "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            **labels,
        },
    }
    status = {"allocatable": amounts, "capacity": amounts}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}


class PlayedNodes:
    """What tests do with such nodes."""

    def __init__(self, cluster: Cluster) -> None:
        """Nodes of `cluster`, which must run kwok."""
        self._cluster = cluster

    def add(
        self,
        *names: str,
        resources: Mapping[str, int | str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Create nodes and wait until they are Ready."""
        nodes = [node_manifest(name, resources=resources or {}, labels=labels or {}) for name in names]
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes})
        self._cluster.kubectl("create", "--filename=-", stdin=document, seconds=300)
        targets = [f"node/{name}" for name in names]
        self._cluster.kubectl("wait", "--for=condition=Ready", "--timeout=120s", *targets, seconds=130)

    def offer(self, name: str, resources: Mapping[str, int | str]) -> None:
        """Change what a node offers, as a device plugin does: {"amd.com/nic": 7}."""
        amounts = {key: str(value) for key, value in resources.items()}
        patch = json.dumps({"status": {"allocatable": amounts, "capacity": amounts}})
        self._cluster.kubectl("patch", "node", name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def lose(self, name: str) -> None:
        """The node falls silent: no lease, no pod of it changes or ends; NotReady after `node_grace_seconds`."""
        self._cluster.kubectl("annotate", "node", name, f"{MANAGED}-")

    def find(self, name: str) -> None:
        """A lost node speaks again."""
        self._cluster.kubectl("annotate", "node", name, f"{MANAGED}=fake", "--overwrite")

    def remove(self, *names: str) -> None:
        """Delete nodes; the pod garbage collector then deletes their pods."""
        self._cluster.kubectl("delete", "node", *names, "--wait=false")
