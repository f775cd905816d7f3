"""What tests of the operator wait for and compare."""

from __future__ import annotations

import json
from typing import Any

from testbed.audit import AuditEvent
from testbed.cluster import Cluster, Document
from testbed.errors import BedError
from tests.cluster.operator_process import condition

SETTLE_SECONDS = 120.0
PASSING = ("events", "events.events.k8s.io", "endpoints", "endpointslices.discovery.k8s.io")
"""Kinds that other controllers write and delete in their own time."""
CHILDREN = (
    "statefulsets,pods,services,deployments,serviceaccounts,rolebindings,poddisruptionbudgets,networkpolicies,"
    "controllerrevisions,workerpools"
)


def service(bed: Cluster, namespace: str, name: str = "tiny") -> Document:
    """The DisaggregatedService."""
    return bed.get("disaggregatedservices", name, namespace)


def settled(bed: Cluster, namespace: str, name: str = "tiny") -> Document | None:
    """The service, if it is Available, rolled out, and at the present generation."""
    found = service(bed, namespace, name)
    has_followed = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
    is_settled = condition(found, "Available") == "True" and condition(found, "Progressing") == "False"
    return found if has_followed and is_settled else None


def await_settled(bed: Cluster, namespace: str, name: str = "tiny", *, seconds: float = SETTLE_SECONDS) -> Document:
    """The service once it is settled; BedError with what there is in the namespace when it does not settle."""
    try:
        found: Document = bed.until(
            lambda: settled(bed, namespace, name), what=f"{name} to be Available and settled", seconds=seconds
        )
    except BedError as error:
        kinds = "disaggregatedservices,pods,statefulsets,events"
        raise BedError(f"{error}\n{bed.kubectl('get', kinds, f'--namespace={namespace}')}") from None
    return found


def children(bed: Cluster, namespace: str) -> dict[tuple[str, str], Document]:
    """All objects that belong to a service, by kind and name."""
    found = bed.get(CHILDREN, namespace=namespace, selector="proa.dev/service")["items"]
    return {(item["kind"], item["metadata"]["name"]): item for item in found}


def objects(bed: Cluster, *namespaces: str) -> frozenset[str]:
    """NAMESPACE/KIND/NAME of every object there, whoever made it, and /KIND/NAME of every one of the cluster itself."""
    found: set[str] = set()
    for scope, places in (("true", namespaces), ("false", ("",))):
        words = ("api-resources", f"--namespaced={scope}", "--verbs=list,create", "--output=name")
        kinds = ",".join(kind for kind in bed.kubectl(*words).split() if kind not in PASSING)
        for place in places:
            names = bed.kubectl("get", kinds, f"--namespace={place}", "--output=name", "--ignore-not-found")
            found |= {f"{place}/{name}" for name in names.split()}
    return frozenset(found)


def shape(bed: Cluster, namespace: str) -> dict[tuple[str, str], Any]:
    """What two runs of the same manifest must have in common: kinds, names and specs, without what is random."""
    found = children(bed, namespace)
    return {key: _bare(item) for key, item in found.items() if key[0] not in ("Pod", "ControllerRevision")}


def writes(bed: Cluster, namespace: str, *, since: str = "") -> list[AuditEvent]:
    """Writes by the operator in the namespace from a moment on (RFC 3339), but those of the Lease."""
    return [
        event
        for event in bed.audit()
        if event.user_agent.startswith("proa-operator")
        and event.namespace == namespace
        and event.verb in ("create", "update", "patch", "delete")
        and event.resource not in ("leases", "selfsubjectaccessreviews")
        and event.received >= since
    ]


def _bare(item: Document) -> Any:
    spec = json.loads(json.dumps(item.get("spec", item.get("roleRef", {}))))
    for name in ("clusterIP", "clusterIPs"):
        if spec.get(name) not in (None, "None", ["None"]):
            del spec[name]
    return spec
