"""What the operator reports on a DisaggregatedService and on a WorkerPool."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from proa_operator.api.noun import Count, Noun


class ConditionStatus(StrEnum):
    """Kubernetes' three truth values."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Noun):
    """One aspect of the state, as in every Kubernetes API."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """Aspect, such as Available, Progressing, Degraded or ModelReady."""
    status: ConditionStatus
    """True, False or Unknown."""
    observed_generation: Count = 0
    """metadata.generation of the manifest that this was found for."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Reason for programs, in CamelCase."""
    message: Annotated[str, Field(max_length=32768)]
    """Reason for people, with the fix where there is one."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


class GroupCounts(Noun):
    """Groups of one pool."""

    replicas: Count = 0
    """Groups that exist and stay."""
    ready: Count = 0
    """Groups whose pods are all Ready."""
    routable: Count = 0
    """Ready groups that the gateway may use."""
    draining: Count = 0
    """Groups on their way out."""


class PoolStatus(GroupCounts):
    """Groups of one pool, of all revisions together."""

    desired: Count = 0
    """Groups that should serve."""


class PoolsStatus(Noun):
    """State of the two pools."""

    prefill: PoolStatus | None = None
    """State of the prefill pool."""
    decode: PoolStatus | None = None
    """State of the decode pool."""


class RevisionStatus(Noun):
    """One revision that has groups."""

    name: str
    """8 hexadecimal digits, as in the label proa.dev/revision."""
    is_target: bool
    """The groups are moving to this one."""
    prefill: GroupCounts | None = None
    """Its prefill groups."""
    decode: GroupCounts | None = None
    """Its decode groups."""


class StartingGroup(Noun):
    """One group that does not serve yet."""

    group: str
    """Name of its StatefulSet."""
    phase: str
    """Gated, Pending, Download, Load, Compile, Graphs or Probe."""
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Done part of the phase, in tenths."""


class RolloutStatus(Noun):
    """What the deadline without progress is counted from."""

    key: str
    """The rollout that the numbers belong to."""
    best: dict[str, int] = Field(default_factory=dict)
    """Furthest mark that each group has reached."""
    progressed_at: float
    """When a mark last rose, in seconds since the epoch."""


class Columns(Noun):
    """Text for `kubectl get`."""

    prefill: str = ""
    """Routable and desired prefill groups, such as "1/2"."""
    decode: str = ""
    """Routable and desired decode groups, such as "1/2"."""
    state: str = ""
    """What goes on, such as "Load 40%", "Draining 1" or "Serving"."""


class AutoscalerStatus(Noun):
    """Last decision that changed something, or would."""

    mode: str = ""
    """Active, or Advisory; a service without a PerformanceProfile is only advised."""
    prefill: Count = 0
    """Prefill groups that were decided."""
    decode: Count = 0
    """Decode groups that were decided."""
    reason: str = ""
    """Why, in one word, such as ScaleUp, Steady or MetricsMissing."""
    binding: str = ""
    """Field of the spec that keeps the service from what it needs; empty for none."""
    has_profile: bool = False
    """A PerformanceProfile fits the service."""


class ServiceStatus(Noun):
    """Written by the operator."""

    observed_generation: Count = 0
    """metadata.generation of the manifest that this status is about."""
    revision: str = ""
    """Revision that the groups are moving to, or have reached."""
    topology: str = ""
    """Topology of that revision."""
    rendered: str = ""
    """Digest of the objects that were last applied."""
    pools: PoolsStatus = PoolsStatus()
    """State of the two pools."""
    revisions: tuple[RevisionStatus, ...] = ()
    """Revisions that have groups."""
    starting: tuple[StartingGroup, ...] = ()
    """Groups that do not serve yet, with how far they are."""
    rollout: RolloutStatus | None = None
    """Progress of a rollout; absent when there is none."""
    autoscaler: AutoscalerStatus | None = None
    """Written by the autoscaler; absent while spec.autoscaling.mode is Disabled."""
    columns: Columns = Columns()
    """Text for `kubectl get`."""
    conditions: Conditions = ()
    """Aspects of the state: ModelReady, Available, Progressing, Degraded and more."""


class WorkerPoolStatus(Noun):
    """Written by the operator."""

    observed_generation: Count = 0
    """metadata.generation of the pool that this status is about."""
    replicas: Count = 0
    """Groups that exist."""
    ready_replicas: Count = 0
    """Groups that are loaded and routable."""
    selector: str = ""
    """Label selector of the groups' leading pods, for a HorizontalPodAutoscaler."""
    conditions: Conditions = ()
    """Aspects of the state."""
