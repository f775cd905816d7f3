"""DisaggregatedService, the one object that a user writes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from proa_operator.api.accelerator import Accelerator
from proa_operator.api.autoscaling import Autoscaling
from proa_operator.api.engine import Engine
from proa_operator.api.gateway import Gateway
from proa_operator.api.kv_transfer import KvTransfer
from proa_operator.api.model import Model
from proa_operator.api.noun import Noun, Positive
from proa_operator.api.placement import Placement
from proa_operator.api.pools import Pools
from proa_operator.api.rollout import Rollout
from proa_operator.api.security import Security
from proa_operator.api.slo import Slo

API_VERSION = "proa.dev/v1alpha1"
KIND = "DisaggregatedService"


class Topology(StrEnum):
    """Two pools with a hand-off between them, or one pool in which every group does both."""

    DISAGGREGATED = "Disaggregated"
    AGGREGATED = "Aggregated"


class Drain(Noun):
    """What a worker may take to finish before it is stopped."""

    timeout_seconds: Positive = 600
    """Time for running requests and leases; what is left is cut and reported."""


class Health(Noun):
    """When a worker that still answers counts as stuck."""

    stall_seconds: Positive = 60
    """A Ready worker with waiting requests and no step for this long is restarted."""


class Metadata(Noun):
    """Name and labels; whatever else the API server keeps in an object's metadata is ignored."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1)]
    """Name of the service: a DNS label of at most 31 characters, so that names of its children fit."""
    namespace: str = ""
    """Namespace; empty is the current one."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations."""


class ServiceSpec(Noun):
    """What is served, with what, in which pools."""

    topology: Topology = Topology.DISAGGREGATED
    """Two pools with a hand-off between them, or one pool whose groups do both; switchable while serving."""
    model: Model
    """The served model."""
    engine: Engine = Engine()
    """The engine that runs it."""
    accelerator: Accelerator | None = None
    """GPUs of each pod; absent runs on CPUs."""
    pools: Pools
    """The prefill and the decode pool."""
    kv_transfer: KvTransfer = KvTransfer()
    """Hand-off of KV blocks."""
    slo: Slo = Slo()
    """Latency objectives."""
    autoscaling: Autoscaling = Autoscaling()
    """Bounds and tempo of the autoscaler."""
    rollout: Rollout = Rollout()
    """How a new revision replaces the old one."""
    drain: Drain = Drain()
    """Time to finish before a stop."""
    health: Health = Health()
    """When a worker counts as stuck."""
    gateway: Gateway = Gateway()
    """The OpenAI-compatible gateway."""
    security: Security = Security()
    """How far the pods are locked down."""
    placement: Placement = Placement()
    """Where pods may run."""


class DisaggregatedService(Noun):
    """A mixture-of-experts model served with prefill and decode in separate pools."""

    api_version: Literal["proa.dev/v1alpha1"]
    """Group and version of the API."""
    kind: Literal["DisaggregatedService"]
    """Kind of the object."""
    metadata: Metadata
    """Name and labels."""
    spec: ServiceSpec
    """What is served, with what, in which pools."""
    status: dict[str, Any] = Field(default_factory=dict, exclude=True)
    """Written by the operator; ignored in a file."""
