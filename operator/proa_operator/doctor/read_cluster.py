"""Reading what the checks of a cluster need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from proa_operator.cli.cluster import Cluster
from proa_operator.cli.operator_settings import SELECTOR
from proa_operator.cluster.api import Ref
from proa_operator.cluster.discover import discover
from proa_operator.cluster.errors import Gone, Refused
from proa_operator.cluster.kinds import DEPLOYMENT, NODE, POD, Kind
from proa_operator.doctor.cluster_facts import ClusterFacts, Right
from proa_operator.names import GROUP

T = TypeVar("T")
Json = Mapping[str, Any]

RIGHTS = (
    Right(command="status", verb="list", group=GROUP, resource="disaggregatedservices"),
    Right(command="undo, rollout restart", verb="patch", group=GROUP, resource="disaggregatedservices"),
    Right(command="plan, diff", verb="list", group=GROUP, resource="workerpools"),
    Right(command="plan, diff", verb="list", group="", resource="pods"),
    Right(command="plan, diff", verb="list", group="networking.k8s.io", resource="networkpolicies"),
    Right(command="rollout, undo", verb="list", group="apps", resource="controllerrevisions"),
    Right(command="drain", verb="patch", group="apps", resource="statefulsets"),
)
PROMETHEUS = "app.kubernetes.io/name=prometheus"

_STORAGE_CLASS = Kind(
    name="StorageClass", group="storage.k8s.io", version="v1", plural="storageclasses", is_namespaced=False
)
_NAMESPACE = Kind(name="Namespace", group="", version="v1", plural="namespaces", is_namespaced=False)
_REVIEW = Kind(
    name="SelfSubjectAccessReview",
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectaccessreviews",
    is_namespaced=False,
)


async def read_facts(cluster: Cluster) -> ClusterFacts:
    """Raises what the API client raises, but for what your rights do not let you see."""
    version = await cluster.api.document("/version")
    discovered = await discover(cluster.api, (cluster.namespace,))
    operators = await _seen(cluster.all(DEPLOYMENT, "", SELECTOR))
    pods = await _seen(cluster.all(POD, "", PROMETHEUS))
    labels = await _seen(cluster.api.get(Ref(kind=_NAMESPACE, name=cluster.namespace)))
    return ClusterFacts(
        server=cluster.server,
        namespace=cluster.namespace,
        version=version["gitVersion"],
        kinds=await _own_kinds(cluster),
        optional_kinds=discovered.optional_kinds,
        refused_rights=await _refused(cluster),
        operators=_tuple(operators),
        nodes=_tuple(await _seen(cluster.all(NODE, ""))),
        prometheus_pods=None if pods is None else len(pods),
        storage_classes=_tuple(await _seen(cluster.all(_STORAGE_CLASS, ""))),
        namespace_labels=None if labels is None else labels["metadata"].get("labels") or {},
    )


async def _seen(reading: Awaitable[T]) -> T | None:
    """None for what is refused."""
    try:
        return await reading
    except (Refused, Gone):
        return None


def _tuple(found: list[dict[str, Any]] | None) -> tuple[Json, ...] | None:
    return None if found is None else tuple(found)


async def _own_kinds(cluster: Cluster) -> frozenset[str]:
    try:
        answer = await cluster.api.document(f"/apis/{GROUP}/v1alpha1")
    except Gone:
        return frozenset()
    return frozenset(found["name"] for found in answer["resources"])


async def _refused(cluster: Cluster) -> tuple[Right, ...]:
    allowed = await asyncio.gather(*(_is_allowed(cluster, right) for right in RIGHTS))
    return tuple(right for right, is_allowed in zip(RIGHTS, allowed, strict=True) if not is_allowed)


async def _is_allowed(cluster: Cluster, right: Right) -> bool:
    attributes = {
        "namespace": cluster.namespace,
        "group": right.group,
        "resource": right.resource,
        "verb": right.verb,
    }
    body = {"apiVersion": _REVIEW.api_version, "kind": _REVIEW.name, "spec": {"resourceAttributes": attributes}}
    answer = await cluster.api.review(Ref(kind=_REVIEW, name=""), body)
    return bool(answer["status"].get("allowed"))
