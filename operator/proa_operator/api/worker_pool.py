"""WorkerPool: one role's number of groups, with /scale, so that `kubectl scale`, HPA and KEDA work on a pool."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from proa_operator.api.noun import Groups, Noun
from proa_operator.api.rule import Rule, TransitionRule
from proa_operator.api.service import Metadata
from proa_operator.names import Role


class WorkerPoolSpec(Noun):
    """The pool and its size."""

    service: Annotated[str, Field(min_length=1, max_length=63)]
    """DisaggregatedService that the pool belongs to; it cannot change."""
    role: Role
    """prefill or decode; it cannot change."""
    replicas: Groups | None = None
    """Number of groups. Set from the manifest at creation and when the manifest changes; yours to scale otherwise."""


class WorkerPool(Noun):
    """One pool of a DisaggregatedService. The operator makes it, `kubectl scale wpool NAME --replicas=N` scales it."""

    api_version: Literal["proa.dev/v1alpha1"]
    """Group and version of the API."""
    kind: Literal["WorkerPool"]
    """Kind of the object."""
    metadata: Metadata
    """Name and labels."""
    spec: WorkerPoolSpec
    """The pool and its size."""
    status: dict[str, Any] = Field(default_factory=dict, exclude=True)
    """Written by the operator."""


WORKER_POOL_RULES: tuple[Rule | TransitionRule, ...] = (
    TransitionRule(
        path="spec",
        field="service",
        cel="self.service == oldSelf.service",
        holds=lambda old, new: old.service == new.service,
        message="a pool stays with its service: delete the pool, the operator makes it again",
    ),
    TransitionRule(
        path="spec",
        field="role",
        cel="self.role == oldSelf.role",
        holds=lambda old, new: old.role == new.role,
        message="a pool keeps its role: delete the pool, the operator makes it again",
    ),
)
