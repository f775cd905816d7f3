"""What this cluster knows and what this operator may see, asked without a request that could be refused."""

from __future__ import annotations

from dataclasses import dataclass

from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.errors import Gone
from proa_operator.cluster.kinds import EVENT, KINDS, NODE, Kind

_REVIEW = Kind(
    name="SelfSubjectAccessReview",
    group="authorization.k8s.io",
    version="v1",
    plural="selfsubjectaccessreviews",
    is_namespaced=False,
    is_child=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """Optional parts of a cluster."""

    sees_nodes: bool = False
    sees_events: bool = False
    optional_kinds: frozenset[str] = frozenset()
    """Kinds whose CRDs are there."""


async def discover(api: Api, namespaces: tuple[str, ...]) -> Discovered:
    """Raises ApiError and Unreachable."""
    optional = [kind for kind in KINDS.values() if kind.is_optional]
    found = frozenset([kind.name for kind in optional if await _knows(api, kind)])
    sees_events = all([await _may_list(api, EVENT, namespace) for namespace in namespaces or ("",)])
    return Discovered(sees_nodes=await _may_list(api, NODE), sees_events=sees_events, optional_kinds=found)


async def _knows(api: Api, kind: Kind) -> bool:
    try:
        answer = await api.document(f"/apis/{kind.api_version}")
    except Gone:
        return False
    return any(found["name"] == kind.plural for found in answer["resources"])


async def _may_list(api: Api, kind: Kind, namespace: str = "") -> bool:
    attributes = {"group": kind.group, "resource": kind.plural, "verb": "list", "namespace": namespace}
    body = {
        "apiVersion": _REVIEW.api_version,
        "kind": _REVIEW.name,
        "spec": {"resourceAttributes": attributes},
    }
    answer = await api.review(Ref(kind=_REVIEW, name=""), body)
    return bool(answer["status"].get("allowed"))
