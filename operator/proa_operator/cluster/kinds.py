"""The kinds that the operator reads and writes. RBAC of the chart follows this table."""

from __future__ import annotations

from dataclasses import dataclass

from proa_operator import names
from proa_operator.api.service import KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind in one version."""

    name: str
    group: str
    version: str
    plural: str
    is_namespaced: bool = True
    is_child: bool = True
    """Carries the label with the service's name; others are watched as a whole."""
    selector: str = names.SERVICE_LABEL
    """Label selector of the children."""
    is_optional: bool = False
    """Its CRD may be missing. Listed now and then, not watched."""

    @property
    def api_version(self) -> str:
        """As in an object's apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "") -> str:
        """Path of an object, or of the collection."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if namespace and self.is_namespaced else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")


_OWN_REVISIONS = f"{names.SERVICE_LABEL},!{names.GROUP_LABEL}"
"""Those that the StatefulSet controller keeps have the labels of its pods."""

SERVICE = Kind(name=KIND, group=names.GROUP, version="v1alpha1", plural="disaggregatedservices", is_child=False)
POOL = Kind(name="WorkerPool", group=names.GROUP, version="v1alpha1", plural="workerpools")
POD = Kind(name="Pod", group="", version="v1", plural="pods")
NODE = Kind(name="Node", group="", version="v1", plural="nodes", is_namespaced=False, is_child=False)
STATEFUL_SET = Kind(name="StatefulSet", group="apps", version="v1", plural="statefulsets")
REVISION = Kind(
    name="ControllerRevision", group="apps", version="v1", plural="controllerrevisions", selector=_OWN_REVISIONS
)
DEPLOYMENT = Kind(name="Deployment", group="apps", version="v1", plural="deployments")
JOB = Kind(name="Job", group="batch", version="v1", plural="jobs")
EVENT = Kind(name="Event", group="", version="v1", plural="events", is_child=False)
LEASE = Kind(name="Lease", group="coordination.k8s.io", version="v1", plural="leases", is_child=False)

_PLAIN = (
    Kind(name="Service", group="", version="v1", plural="services"),
    Kind(name="ServiceAccount", group="", version="v1", plural="serviceaccounts"),
    Kind(name="PersistentVolumeClaim", group="", version="v1", plural="persistentvolumeclaims"),
    Kind(name="PodDisruptionBudget", group="policy", version="v1", plural="poddisruptionbudgets"),
    Kind(name="NetworkPolicy", group="networking.k8s.io", version="v1", plural="networkpolicies"),
    Kind(name="RoleBinding", group="rbac.authorization.k8s.io", version="v1", plural="rolebindings"),
    Kind(name="PodMonitor", group="monitoring.coreos.com", version="v1", plural="podmonitors", is_optional=True),
    Kind(name="HTTPRoute", group="gateway.networking.k8s.io", version="v1", plural="httproutes", is_optional=True),
)
CHILDREN = (STATEFUL_SET, REVISION, POOL, DEPLOYMENT, JOB, POD, *_PLAIN)
KINDS: dict[str, Kind] = {kind.name: kind for kind in (SERVICE, NODE, EVENT, LEASE, *CHILDREN)}
"""By name: within these, a name is one kind."""


def cached_kinds(*, has_nodes: bool) -> tuple[Kind, ...]:
    """What the cache holds. Nodes only where the operator may see them."""
    return (SERVICE, *CHILDREN, *((NODE,) if has_nodes else ()))
