"""Every name that the operator writes into a cluster: labels, annotations, ports, names of children. Spelled here only.

Limits (tried on Kubernetes 1.36): a StatefulSet's name has at most 52 characters, or its pods never come, because the
label with its revision would be too long; a label's value and a Service's name have at most 63.
"""

from __future__ import annotations

from enum import StrEnum

GROUP = "proa.dev"
MANAGER = "proa-operator"  # field manager of server-side apply
REPLICAS_MANAGER = "proa-operator-replicas"  # applies WorkerPool.spec.replicas, and only when the user changes it
AUTOSCALER_MANAGER = "proa-autoscaler"  # writes WorkerPool.spec.replicas for the autoscaler
MARKS_MANAGER = "proa-operator-marks"  # writes the annotations that are not part of an applied object

SERVICE_LABEL = "proa.dev/service"
ROLE_LABEL = "proa.dev/role"  # the pool: prefill or decode, in both topologies
REVISION_LABEL = "proa.dev/revision"
GROUP_LABEL = "proa.dev/group"  # name of the group's StatefulSet
GROUP_INDEX_LABEL = "proa.dev/group-index"
TOPOLOGY_LABEL = "proa.dev/topology"  # Disaggregated or Aggregated: what the group's workers do
COMPONENT_LABEL = "app.kubernetes.io/component"
NAME_LABEL = "app.kubernetes.io/name"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
POD_INDEX_LABEL = "apps.kubernetes.io/pod-index"  # set by the StatefulSet controller; "0" is a group's leader
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"

FAILED_ANNOTATION = "proa.dev/failed"  # on a ControllerRevision: why the revision was given up
STARTED_ANNOTATION = "proa.dev/started-at"  # on a ControllerRevision: RFC 3339, when its rollout began
RESTART_ANNOTATION = "proa.dev/restart"  # on a service: any new value makes a new revision of the same spec
APPLIED_ANNOTATION = "proa.dev/applied"  # on every child: digest of what was applied last
MEMO_ANNOTATION = "proa.dev/memo"  # on a group's StatefulSet: GroupMemo as JSON
DRAIN_ANNOTATION = "proa.dev/drain"  # on a group's StatefulSet, by a person: any value asks for a drain
DECLARED_ANNOTATION = "proa.dev/declared-replicas"  # on a WorkerPool: the service's own number at the last write
AVAILABLE_ANNOTATION = "proa.dev/available-at"  # on a ControllerRevision: seconds since the epoch of its first service
AUTOSCALED_ANNOTATION = "proa.dev/autoscaled-replicas"  # on a WorkerPool: the number that the autoscaler wrote last
MANUAL_ANNOTATION = "proa.dev/manual-at"  # on a WorkerPool: seconds since the epoch, when somebody else had written
MEMORY_ANNOTATION = "proa.dev/autoscaler"  # on the decode WorkerPool: the autoscaler's memory as JSON

GANG_GATE = "proa.dev/gang"
ROUTABLE_CONDITION = "proa.dev/routable"

WORKER_CONTAINER = "worker"
GATEWAY_CONTAINER = "gateway"
DOWNLOAD_CONTAINER = "download"
GATEWAY_ROLE = "proa-gateway"  # the chart's: a Role in each watched namespace, or one ClusterRole

MAX_SERVICE_CHARACTERS = 31
MAX_GROUP_CHARACTERS = 52
MAX_LABEL_CHARACTERS = 63
REVISION_CHARACTERS = 8
MAX_GROUP_INDEX = 999


class Role(StrEnum):
    """The two pools."""

    PREFILL = "prefill"
    DECODE = "decode"


class Component(StrEnum):
    """What a pod or a ControllerRevision of a service is, in the label `app.kubernetes.io/component`."""

    WORKER = "worker"
    GATEWAY = "gateway"
    DOWNLOAD = "model-download"
    REVISION = "revision"


class Port(StrEnum):
    """Names of ports. A port's name has at most 15 characters."""

    ENGINE = "engine"
    KV = "kv"
    KV_DATA = "kv-data"
    ADMIN = "admin"
    METRICS = "metrics"
    HTTP = "http"
    HEALTH = "health"
    PROGRESS = "progress"


WORKER_PORTS: dict[Port, int] = {
    Port.ENGINE: 50051,
    Port.KV: 50052,
    Port.KV_DATA: 50053,
    Port.ADMIN: 50054,
    Port.METRICS: 9100,
}
GATEWAY_PORTS: dict[Port, int] = {Port.HTTP: 8000, Port.HEALTH: 8081, Port.METRICS: 29000}
DOWNLOAD_PORTS: dict[Port, int] = {Port.PROGRESS: 9100}


def group_name(service: str, revision: str, role: Role | str, index: int) -> str:
    """StatefulSet, headless Service and PDB of a group: SERVICE-REVISION-ROLE-INDEX with three digits."""
    if not 0 <= index <= MAX_GROUP_INDEX:
        raise ValueError(f"group index {index} is not in 0..{MAX_GROUP_INDEX}: reuse the indices of deleted groups")
    if len(revision) != REVISION_CHARACTERS:
        raise ValueError(f"revision {revision!r} does not have {REVISION_CHARACTERS} characters")
    return _within(f"{service}-{revision}-{Role(role).value}-{index:03d}", MAX_GROUP_CHARACTERS)


def pod_name(group: str, ordinal: int) -> str:
    """Pod of a group; ordinal 0 is the leader."""
    return _within(f"{group}-{ordinal}", MAX_LABEL_CHARACTERS)


def gateway_name(service: str) -> str:
    """Deployment, Service, PDB, ServiceAccount, RoleBinding and HTTPRoute of the gateway."""
    return _within(f"{service}-gateway", MAX_LABEL_CHARACTERS)


def pool_name(service: str, role: Role | str) -> str:
    """WorkerPool of a role."""
    return _within(f"{service}-{Role(role).value}", MAX_LABEL_CHARACTERS)


def revision_name(service: str, revision: str) -> str:
    """ControllerRevision of a revision."""
    return _within(f"{service}-{revision}", MAX_LABEL_CHARACTERS)


def policy_name(service: str, flow: str) -> str:
    """NetworkPolicy for one kind of flow."""
    return _within(f"{service}-{flow}", MAX_LABEL_CHARACTERS)


def model_name(service: str, digest: str) -> str:
    """Claim or Job of a downloaded model; `digest` has 8 characters."""
    return _within(f"{service}-model-{digest}", MAX_LABEL_CHARACTERS)


def jit_name(service: str, digest: str) -> str:
    """Claim of the JIT caches; `digest` has 8 characters."""
    return _within(f"{service}-jit-{digest}", MAX_LABEL_CHARACTERS)


def monitor_name(service: str, component: Component) -> str:
    """PodMonitor of a component."""
    return _within(f"{service}-{component.value}", MAX_LABEL_CHARACTERS)


def _within(name: str, limit: int) -> str:
    """ValueError instead of a name that the cluster would take and never run."""
    if len(name) > limit:
        raise ValueError(f"the name {name} has {len(name)} characters, more than {limit}: shorten metadata.name")
    return name
