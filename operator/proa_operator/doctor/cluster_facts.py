"""What the checks of a cluster are made from. None: your rights do not let you see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One thing that a command has to be allowed to do."""

    command: str
    verb: str
    group: str
    resource: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """One reading of a cluster."""

    server: str
    namespace: str
    version: str
    """Of Kubernetes, such as v1.36.1."""
    kinds: frozenset[str]
    """Plurals of the group proa.dev that the API server knows."""
    optional_kinds: frozenset[str] = frozenset()
    """Kinds of other projects that it knows: PodMonitor, HTTPRoute."""
    refused_rights: tuple[Right, ...] = ()
    """Rights that commands of `proa` need and you do not have in the namespace."""
    operators: tuple[Json, ...] | None = ()
    """Deployments of operators."""
    nodes: tuple[Json, ...] | None = ()
    prometheus_pods: int | None = 0
    """Running pods that are labelled as Prometheus."""
    storage_classes: tuple[Json, ...] | None = ()
    namespace_labels: Mapping[str, str] | None = field(default_factory=dict)
