"""The kinds of the API group: names, types, rules and what `kubectl get` shows of each."""

from __future__ import annotations

from dataclasses import dataclass

from proa_operator.api.noun import Noun
from proa_operator.api.performance_profile import PERFORMANCE_PROFILE_RULES, PerformanceProfile
from proa_operator.api.rule import Rule, TransitionRule
from proa_operator.api.rules import RULES, TRANSITION_RULES
from proa_operator.api.service import DisaggregatedService
from proa_operator.api.status import ServiceStatus, WorkerPoolStatus
from proa_operator.api.worker_pool import WORKER_POOL_RULES, WorkerPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    """JSONPath from the object."""
    description: str
    type: str = "string"
    is_wide: bool = False
    """Shown with `--output wide` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Paths of the /scale subresource."""

    replicas: str
    ready: str
    selector: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One CustomResourceDefinition."""

    noun: type[Noun]
    plural: str
    short: str
    columns: tuple[Column, ...]
    rules: tuple[Rule | TransitionRule, ...]
    status: type[Noun] | None = None
    """Absent: the kind has no status."""
    scale: Scale | None = None

    @property
    def name(self) -> str:
        """In CamelCase."""
        return self.noun.__name__


AGE = Column(name="Age", path=".metadata.creationTimestamp", type="date", description="Time since its creation.")
SERVICE_COLUMNS = (
    Column(name="Model", path=".spec.model.name", description="Name that clients ask for."),
    Column(
        name="Available",
        path='.status.conditions[?(@.type=="Available")].status',
        description="Whether requests can be served.",
    ),
    Column(name="State", path=".status.columns.state", description="What goes on."),
    Column(name="Prefill", path=".status.columns.prefill", description="Routable and desired prefill groups."),
    Column(name="Decode", path=".status.columns.decode", description="Routable and desired decode groups."),
    Column(name="Revision", path=".status.revision", description="Revision that the groups have or move to."),
    AGE,
    Column(name="Engine", path=".spec.engine.type", description="Engine that runs the model.", is_wide=True),
    Column(
        name="Reason",
        path='.status.conditions[?(@.type=="Available")].message',
        description="Why it is available or not.",
        is_wide=True,
    ),
)
POOL_COLUMNS = (
    Column(name="Service", path=".spec.service", description="DisaggregatedService that it belongs to."),
    Column(name="Role", path=".spec.role", description="prefill or decode."),
    Column(name="Desired", path=".spec.replicas", type="integer", description="Groups that are asked for."),
    Column(name="Ready", path=".status.readyReplicas", type="integer", description="Groups that serve."),
    AGE,
)
PROFILE_COLUMNS = (
    Column(name="Model", path=".spec.model", description="Checkpoint."),
    Column(name="Engine", path=".spec.engine", description="Engine that ran it."),
    Column(name="GPU", path=".spec.accelerator.product", description="Product; empty is CPUs."),
    Column(name="Origin", path=".spec.provenance.origin", description="measured or simulated."),
    Column(name="Date", path=".spec.provenance.date", description="Day of the measurement."),
    AGE,
)
KINDS = (
    Kind(
        noun=DisaggregatedService,
        plural="disaggregatedservices",
        short="dsvc",
        columns=SERVICE_COLUMNS,
        rules=(*RULES, *TRANSITION_RULES),
        status=ServiceStatus,
    ),
    Kind(
        noun=WorkerPool,
        plural="workerpools",
        short="wpool",
        columns=POOL_COLUMNS,
        rules=WORKER_POOL_RULES,
        status=WorkerPoolStatus,
        scale=Scale(replicas=".spec.replicas", ready=".status.replicas", selector=".status.selector"),
    ),
    Kind(
        noun=PerformanceProfile,
        plural="performanceprofiles",
        short="pprof",
        columns=PROFILE_COLUMNS,
        rules=PERFORMANCE_PROFILE_RULES,
    ),
)
