"""What the cache keeps of each object: small frozen values, so that 16,000 pods fit and equal news changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proa_operator.api.service import Topology
from proa_operator.plan.state import Taint

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A group as the labels of its objects tell it."""

    group: str
    revision: str
    role: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """A pod; of one without `membership` only what it takes from its node."""

    membership: Membership | None = None
    component: str = ""
    """What the pod of a service is, by its label."""
    ordinal: int = 0
    node: str = ""
    ip: str = ""
    gates: tuple[str, ...] = ()
    affinity: str = ""
    """spec.affinity as JSON, kept while the pod is gated."""
    is_terminating: bool = False
    phase: str = "Pending"
    is_started: bool = False
    """The container of the worker, or of the download, runs."""
    loaded_since: str = ""
    """When ContainersReady last became True; empty while it is not."""
    routable: str = ""
    """Status of the condition proa.dev/routable; empty while there is none."""
    route_reason: str = ""
    unrouted_at: float | None = None
    """When that condition became False; None while it is not."""
    unschedulable_since: float | None = None
    unschedulable_message: str = ""
    num_restarts: int = 0
    waiting_reason: str = ""
    waiting_message: str = ""
    last_words: str = ""
    """Of a download that ended for good: the last line of its log, which says what to do."""
    requests: tuple[tuple[str, int], ...] = ()
    """Extended resources, such as amd.com/gpu."""

    @property
    def is_over(self) -> bool:
        """Its containers have ended for good: it takes nothing from its node."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A group's StatefulSet."""

    membership: Membership
    num_pods: int
    created_at: float
    is_deleting: bool
    is_drain_requested: bool
    memo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionFacts:
    """A ControllerRevision: the object itself, for the renderer to read, without what the API server adds."""

    body: Json
    available: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """A WorkerPool."""

    role: str
    replicas: int | None
    declared: int | None
    generation: int
    status: Json
    autoscaled: int | None = None
    """What the autoscaler wrote last, or found when it began."""
    manual_at: float | None = None
    """When the autoscaler found that somebody else had written; seconds since the epoch."""
    scaler: str = ""
    """Manager of the controller, a HorizontalPodAutoscaler's or KEDA's, that wrote the present number; else empty."""
    memory: str = ""
    """Its memory, on the decode pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """A Job."""

    is_done: bool
    failed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFacts:
    """The gateway's Deployment."""

    topology: Topology
    num_ready: int
    is_rolled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """A node, apart from what its pods take."""

    is_ready: bool
    is_unschedulable: bool
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    capacity: Mapping[str, int]
    allocatable: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """A DisaggregatedService, as the API server keeps it but for managedFields."""

    body: Json
    is_deleting: bool


Facts = PodFacts | GroupFacts | RevisionFacts | PoolFacts | JobFacts | GatewayFacts | NodeFacts | ServiceFacts | None
"""None: only that the object exists is of interest."""
