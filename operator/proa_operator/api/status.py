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


class PoolStatus(Noun):
    """Groups of one pool, of all revisions together."""

    desired: Count = 0
    """Groups that should serve."""
    ready: Count = 0
    """Groups that are loaded and routable."""
    updated: Count = 0
    """Ready groups of the revision that the manifest asks for."""
    summary: str = ""
    """Ready and desired groups as "1/2", for `kubectl get`."""
    startup: str = ""
    """Phase and fraction of the group that is furthest from serving, such as "Load 40%"."""


class PoolsStatus(Noun):
    """State of the two pools."""

    prefill: PoolStatus = PoolStatus()
    """State of the prefill pool."""
    decode: PoolStatus = PoolStatus()
    """State of the decode pool."""


class ServiceStatus(Noun):
    """Written by the operator."""

    observed_generation: Count = 0
    """metadata.generation of the manifest that this status is about."""
    phase: str = ""
    """One word for `kubectl get`; the conditions say more."""
    revision: str = ""
    """Revision that the manifest asks for."""
    serving_revision: str = ""
    """Revision that serves; differs from `revision` during a rollout and after a rollback."""
    startup: str = ""
    """Phase and fraction of the group that is furthest from serving, such as "Load 40%"."""
    pools: PoolsStatus = PoolsStatus()
    """State of the two pools."""
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
