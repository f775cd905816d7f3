"""From objects of the API server to facts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from proa_operator import names
from proa_operator.api.service import Topology
from proa_operator.cluster import kinds
from proa_operator.cluster.facts import (
    Facts,
    GatewayFacts,
    GroupFacts,
    JobFacts,
    Membership,
    NodeFacts,
    PoolFacts,
    RevisionFacts,
    ServiceFacts,
)
from proa_operator.cluster.quantity import extended
from proa_operator.cluster.touched import scaler_of
from proa_operator.cluster.trim_pod import pod_facts
from proa_operator.plan.state import Taint

log = logging.getLogger(__name__)

Json = Mapping[str, Any]


def facts_of(kind: kinds.Kind, body: Json) -> Facts:
    """Facts of an object; none of one that only looks like a child: somebody made it by hand, or cut its labels."""
    trim = _TRIMS.get(kind.name)
    try:
        return None if trim is None else trim(body)
    except (KeyError, TypeError, ValueError) as error:
        name = body["metadata"]["name"]
        log.warning("object ignored", extra={"kind": kind.name, "object": name, "error": repr(error)})
        return None


def seconds_of(text: str | None) -> float:
    """RFC 3339 to seconds since the epoch; 0 for nothing."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def membership_of(meta: Json) -> Membership | None:
    """The group that the labels name; None for an object of no group."""
    labels = meta.get("labels") or {}
    if names.GROUP_LABEL not in labels:
        return None
    return Membership(
        group=labels[names.GROUP_LABEL],
        revision=labels[names.REVISION_LABEL],
        role=labels[names.ROLE_LABEL],
        index=int(labels[names.GROUP_INDEX_LABEL]),
    )


def _group(body: Json) -> GroupFacts:
    meta = body["metadata"]
    membership = membership_of(meta)
    if membership is None:
        raise KeyError(names.GROUP_LABEL)
    notes = meta.get("annotations") or {}
    return GroupFacts(
        membership=membership,
        num_pods=body["spec"].get("replicas", 1),
        created_at=seconds_of(meta["creationTimestamp"]),
        is_deleting="deletionTimestamp" in meta,
        is_drain_requested=names.DRAIN_ANNOTATION in notes,
        memo=notes.get(names.MEMO_ANNOTATION, ""),
    )


def _revision(body: Json) -> RevisionFacts:
    meta = body["metadata"]
    notes = meta.get("annotations") or {}
    kept = {"labels": meta.get("labels") or {}, "name": meta["name"], "annotations": notes}
    bare = {"metadata": kept, "revision": body["revision"], "data": body["data"]}
    return RevisionFacts(body=bare, available=notes.get(names.AVAILABLE_ANNOTATION, ""))


def _pool(body: Json) -> PoolFacts:
    notes = body["metadata"].get("annotations") or {}
    declared, autoscaled, manual_at = (
        notes.get(mark) for mark in (names.DECLARED_ANNOTATION, names.AUTOSCALED_ANNOTATION, names.MANUAL_ANNOTATION)
    )
    spec = body["spec"]
    return PoolFacts(
        role=spec["role"],
        replicas=spec.get("replicas"),
        declared=None if declared is None else int(declared),
        generation=body["metadata"]["generation"],
        status=body.get("status") or {},
        autoscaled=None if autoscaled is None else int(autoscaled),
        manual_at=None if manual_at is None else float(manual_at),
        memory=notes.get(names.MEMORY_ANNOTATION, ""),
        scaler=scaler_of(body["metadata"]),
    )


def _job(body: Json) -> JobFacts:
    holds = {found["type"]: found for found in (body.get("status") or {}).get("conditions") or () if _is_true(found)}
    failed = holds.get("Failed")
    return JobFacts(
        is_done="Complete" in holds,
        failed="" if failed is None else f"{failed.get('reason', 'Failed')}: {failed.get('message', '')}",
    )


def _gateway(body: Json) -> GatewayFacts:
    spec, status = body["spec"], body.get("status") or {}
    args = spec["template"]["spec"]["containers"][0].get("args") or ()
    wanted = spec.get("replicas", 1)
    counts = [status.get(name, 0) for name in ("updatedReplicas", "availableReplicas", "replicas")]
    return GatewayFacts(
        topology=Topology.AGGREGATED if "--selector" in args else Topology.DISAGGREGATED,
        num_ready=status.get("readyReplicas", 0),
        is_rolled=status.get("observedGeneration", 0) >= body["metadata"]["generation"] and set(counts) == {wanted},
    )


def _node(body: Json) -> NodeFacts:
    spec, status = body.get("spec") or {}, body.get("status") or {}
    ready = [_is_true(found) for found in status.get("conditions") or () if found["type"] == "Ready"]
    taints = (
        Taint(key=taint["key"], value=taint.get("value", ""), effect=taint["effect"])
        for taint in spec.get("taints") or ()
    )
    return NodeFacts(
        is_ready=ready == [True],
        is_unschedulable=spec.get("unschedulable", False),
        labels=body["metadata"].get("labels") or {},
        taints=tuple(taints),
        capacity=extended(status.get("capacity")),
        allocatable=extended(status.get("allocatable")),
    )


def _service(body: Json) -> ServiceFacts:
    meta = {name: value for name, value in body["metadata"].items() if name not in ("managedFields", "resourceVersion")}
    return ServiceFacts(body={**body, "metadata": meta}, is_deleting="deletionTimestamp" in meta)


def _is_true(condition: Json) -> bool:
    return bool(condition["status"] == "True")


def _pod(body: Json) -> Facts:
    return pod_facts(body, membership_of(body["metadata"]))


_TRIMS: dict[str, Callable[[Json], Facts]] = {
    kinds.POD.name: _pod,
    kinds.STATEFUL_SET.name: _group,
    kinds.REVISION.name: _revision,
    kinds.POOL.name: _pool,
    kinds.JOB.name: _job,
    kinds.DEPLOYMENT.name: _gateway,
    kinds.NODE.name: _node,
    kinds.SERVICE.name: _service,
}
