"""What the planner asks for. The shell carries the actions out in order and stops at the first that fails.

Each is one API write or one RPC (Ungate, Route and Apply: one for each pod or object), safe to repeat, and every state
between two of them is one from which the next plan goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from proa_operator.names import Role
from proa_operator.plan.memo import GroupMemo
from proa_operator.plan.state import RouteReason


class EventType(StrEnum):
    """Type of a Kubernetes Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Server-side apply of objects that the service owns; no write where the object is already so."""

    objects: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """Delete one object with its dependents, gracefully; already gone is fine."""

    kind: str
    """StatefulSet, Service, PodDisruptionBudget, Pod, ControllerRevision, ..."""
    name: str
    uid: str = ""
    """Precondition on the uid, where it is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Write WorkerPool.spec.replicas: the service's own number has changed. Remember it as `PoolState.declared`."""

    role: Role
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """Replace the memo annotation of a group's StatefulSet."""

    group: str
    memo: GroupMemo


@dataclass(frozen=True, slots=True, kw_only=True)
class Ungate:
    """Take the gang gate off these pods (JSON patch with `test`)."""

    group: str
    pods: tuple[str, ...]
    avoid: tuple[str, ...] = ()
    """Nodes that the pods must not land on; a gated pod may still be given a narrower node affinity."""
    replaces_lost: bool = False
    """Within the budget only while groups on lost nodes do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Set the condition `proa.dev/routable` of a pod."""

    pod: str
    is_routable: bool
    reason: RouteReason
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Start `WorkerAdmin.Probe` from one leader to another, unless one runs for either; do not wait for it.

    The result becomes `PodState.probe` of both pods when it passed, and only of those not yet passed when it failed.
    """

    prefill_pod: str
    decode_pod: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainWorker:
    """Start `WorkerAdmin.Drain` at a pod, unless it already drains; do not wait for it."""

    pod: str
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkAvailable:
    """Note on the ControllerRevision that the revision served with all its groups, and how many those were."""

    revision: str
    at: float
    sizes: Mapping[Role, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkFailed:
    """Note on the ControllerRevision why the revision was given up."""

    revision: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRevision:
    """Give the revision that the spec asks for the highest number; make its ControllerRevision where there is none.

    `objects` is that ControllerRevision; annotations of an earlier start (failed, started-at) are replaced.
    """

    revision: str
    number: int
    at: float
    objects: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """An Event on the service."""

    type: EventType
    reason: str
    message: str


Action = (
    Apply
    | Delete
    | Scale
    | Remember
    | Ungate
    | Route
    | Probe
    | DrainWorker
    | MarkAvailable
    | MarkFailed
    | StartRevision
    | Note
)


def takes_away(action: Action) -> bool:
    """Right only by the spec, the groups and the nodes of the moment in which it is done; a late one does harm.

    It begins a drain, deletes a group, takes a worker out of the gateway that may have loaded again meanwhile, or gives
    away the devices of a group whose node may be back.
    """
    match action:
        case Remember():
            return action.memo.drain is not None
        case Delete():
            return action.kind == "StatefulSet"
        case Route():
            return action.reason is RouteReason.NOT_LOADED
        case Ungate():
            return action.replaces_lost
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Ordered actions, the status that describes what was observed, and when to look again without an event."""

    actions: tuple[Action, ...] = ()
    status: dict[str, Any] = field(default_factory=dict)
    """Ready for the status subresource."""
    wake_at: float | None = None
    """Earliest time at which the passing of time alone changes the plan; None: only events do."""
