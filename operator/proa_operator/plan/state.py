"""What the planner sees of one service. All times are seconds since the epoch, on the operator's clock.

Everything here can be read again from the cluster after a restart, but for `ProbeResult`, `WorkerLoad` and
`unschedulable_since`, which come back by asking the workers and the scheduler's conditions again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proa_operator.api.service import DisaggregatedService, ServiceSpec, Topology
from proa_operator.names import Role
from proa_operator.plan.memo import NOTHING, GroupMemo


class ProbeResult(StrEnum):
    """Outcome of the last `Probe` action that named the pod, since its containers became ready."""

    UNKNOWN = "Unknown"
    RUNNING = "Running"
    PASSED = "Passed"
    FAILED = "Failed"


class RouteReason(StrEnum):
    """Reason of a pod's condition `proa.dev/routable`. The first three are written only after a passed probe."""

    ROUTABLE = "Routable"
    HELD = "Held"  # fit to serve, kept back because its revision has no partner for it yet
    CORDONED = "Cordoned"
    NOT_LOADED = "NotLoaded"
    PROBE_FAILED = "ProbeFailed"


class StartPhase(StrEnum):
    """Phases of a worker in the order of `WorkerAdmin.Load`."""

    DOWNLOAD = "Download"
    LOAD = "Load"
    COMPILE = "Compile"
    GRAPHS = "Graphs"
    SERVING = "Serving"
    DRAINING = "Draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """Answer of `WorkerAdmin.Load`. None in an optional field: the engine does not report it."""

    seen_at: float
    """When the worker answered."""
    phase: StartPhase = StartPhase.SERVING
    fraction: float = 1.0
    """Done part of the phase, 0..1."""
    running: int = 0
    waiting: int = 0
    leases: int | None = 0
    """Hand-offs whose KV blocks the worker still holds."""
    stepped_at: float | None = None
    """When `steps_total` last grew or there was nothing to do, as far as this operator saw; the first sight counts."""
    finished_total: int = 0
    """Requests that ended since its start, failed ones included."""
    failed_total: int = 0
    """Of these, the ones that the worker failed."""
    ttft_seconds: float = 0.0
    """Mean over the last minutes: to the first token, on a prefill worker to the hand-off."""
    ttft_count: int = 0
    """Outputs in that mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """One pod of a group."""

    uid: str
    name: str
    ordinal: int
    """0 is the group's leader, the pod that answers."""
    node: str = ""
    """Empty until the scheduler has bound it."""
    is_gated: bool = False
    """The gang gate is still on it."""
    is_terminating: bool = False
    is_failed: bool = False
    """Its phase is Failed."""
    is_loaded: bool = False
    """Condition ContainersReady: weights are loaded and the worker answers."""
    is_routable: bool = False
    """Condition `proa.dev/routable` is True."""
    route_reason: RouteReason | None = None
    """That condition's reason; None while the pod has no such condition."""
    unrouted_at: float | None = None
    """When that condition became False; None while it is not."""
    probe: ProbeResult = ProbeResult.UNKNOWN
    probed_at: float | None = None
    """When that probe ended."""
    unschedulable_since: float | None = None
    unschedulable_message: str = ""
    """The scheduler's words."""
    """Since when the scheduler has said Unschedulable."""
    num_restarts: int = 0
    """Restarts of its containers."""
    waiting_reason: str = ""
    """Why a container waits, such as ImagePullBackOff or CrashLoopBackOff."""
    waiting_message: str = ""
    load: WorkerLoad | None = None
    """None while the worker does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One engine instance: a StatefulSet with its pods."""

    name: str
    revision: str
    role: Role
    """The pool it belongs to, in both topologies."""
    index: int
    num_pods: int
    """Pods that it should have."""
    created_at: float = 0.0
    is_deleting: bool = False
    """The StatefulSet is gone or going, its pods may still be there."""
    is_drain_requested: bool = False
    """A person asked for it with `proa drain`."""
    memo: GroupMemo = NOTHING
    pods: tuple[PodState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One ControllerRevision."""

    name: str
    """8 hexadecimal digits."""
    number: int
    """Its `revision`; the one that the spec asks for has the highest."""
    spec: ServiceSpec
    """Its part of the spec with the present replicas: `StoredRevision.spec(present)`."""
    template_version: int = 1
    started_at: float
    available_at: float | None = None
    """When it first served with all its groups; only such a revision is rolled back to."""
    sizes: Mapping[Role, int] = field(default_factory=dict)
    """Groups of each role that it had then: the last `MarkAvailable`."""
    failed: str = ""
    """Why it was given up; empty if it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node; the same object may be shared by the observations of all services."""

    name: str
    is_ready: bool = True
    is_unschedulable: bool = False
    """Cordoned."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    capacity: Mapping[str, int] = field(default_factory=dict)
    """Extended resources only, such as amd.com/gpu."""
    allocatable: Mapping[str, int] = field(default_factory=dict)
    """Below capacity when the device plugin calls a device unhealthy."""
    used: Mapping[str, int] = field(default_factory=dict)
    """Requests of all pods bound to it, of every owner, terminating ones included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """One WorkerPool."""

    role: Role
    replicas: int
    """Its spec.replicas: what is wanted, whoever wrote it."""
    declared: int | None = None
    """The service's own number when the operator last wrote spec.replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """The model download."""

    is_done: bool = False
    failed: str = ""
    """Why it failed for good, with the fix; empty otherwise."""
    bytes_done: int = 0
    bytes_total: int = 0
    """0 while unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayState:
    """The gateway's Deployment."""

    topology: Topology
    """Aggregated when its arguments select workers with --selector, else Disaggregated."""
    num_ready: int = 0
    is_rolled: bool = False
    """Its newest generation is observed, and all of its pods are updated and available."""
    waiting_pod: str = ""
    """Name of a pod of it whose container waits; empty when none does."""
    waiting_reason: str = ""
    """Why it waits, such as ImagePullBackOff."""
    waiting_message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A write that the API server refused, kept by the shell until the same write succeeds."""

    reason: str
    """CamelCase, such as PodSecurity, QuotaExceeded, MissingCRD."""
    message: str
    """One line with the fix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that is known of one service at `now`."""

    service: DisaggregatedService
    uid: str
    generation: int
    now: float
    pools: Mapping[Role, PoolState] = field(default_factory=dict)
    revisions: tuple[Revision, ...] = ()
    groups: tuple[Group, ...] = ()
    nodes: Mapping[str, NodeState] | None = None
    """None: this install may not see nodes."""
    unbound_pods: int = 0
    """Ungated pods without a node of all other services: they will take nodes that still look free."""
    job: JobState | None = None
    """None: nothing is downloaded for this model, or the Job is not there yet."""
    gateway: GatewayState | None = None
    """None: there is no Deployment of the gateway."""
    restart: str = ""
    """Value of the service's annotation proa.dev/restart."""
    present: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of every child object in the service's namespace."""
    refusals: tuple[Refusal, ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    """The service's status as it stands; may be empty."""
    is_resync: bool = False
    """True now and then: repeat every Apply, so that what was edited by hand is put right."""
