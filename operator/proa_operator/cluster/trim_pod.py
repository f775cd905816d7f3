"""Facts of a pod."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from proa_operator import names
from proa_operator.cluster.facts import Membership, PodFacts
from proa_operator.cluster.quantity import extended

Json = Mapping[str, Any]
_LONGEST_REASON = 200


def pod_facts(body: Json, membership: Membership | None) -> PodFacts:
    """All facts of a group's pod; of any other pod what it takes from which node."""
    spec, status = body["spec"], body.get("status") or {}
    phase, requests = status.get("phase", "Pending"), _requests(spec)
    if membership is None:
        return _other(body, phase, requests)
    meta, held = body["metadata"], {found["type"]: found for found in status.get("conditions") or ()}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    reason, message = _waiting(containers)
    routable = held.get(names.ROUTABLE_CONDITION, {})
    since, why = _unschedulable(held.get("PodScheduled"))
    return PodFacts(
        membership=membership,
        component=meta["labels"].get(names.COMPONENT_LABEL, ""),
        ordinal=int(meta["labels"].get(names.POD_INDEX_LABEL, meta["name"].rpartition("-")[2])),
        node=spec.get("nodeName", ""),
        ip=status.get("podIP", ""),
        gates=_gates(spec),
        affinity=_affinity(spec),
        is_terminating="deletionTimestamp" in meta,
        phase=phase,
        is_started=any(found["name"] == names.WORKER_CONTAINER and found.get("started") for found in containers),
        loaded_since=_true_since(held.get("ContainersReady")),
        routable=routable.get("status", ""),
        route_reason=routable.get("reason", ""),
        unrouted_at=_false_since(routable),
        unschedulable_since=since,
        unschedulable_message=why,
        num_restarts=sum(found.get("restartCount", 0) for found in containers),
        waiting_reason=reason,
        waiting_message=message,
        requests=requests,
    )


def _other(body: Json, phase: str, requests: tuple[tuple[str, int], ...]) -> PodFacts:
    """A pod of no group. One that downloads a model can be asked how far it is, one of a gateway why it waits."""
    spec, status = body["spec"], body.get("status") or {}
    component = (body["metadata"].get("labels") or {}).get(names.COMPONENT_LABEL, "")
    is_download, is_gateway = component == names.Component.DOWNLOAD, component == names.Component.GATEWAY
    containers = status.get("containerStatuses") or ()
    reason, message = _waiting(containers) if is_gateway and "deletionTimestamp" not in body["metadata"] else ("", "")
    return PodFacts(
        component=component if is_download or is_gateway else "",
        node=spec.get("nodeName", ""),
        ip=status.get("podIP", "") if is_download else "",
        phase=phase,
        is_started=is_download and phase == "Running" and any("running" in found["state"] for found in containers),
        last_words=_last_words(containers) if is_download and phase == "Failed" else "",
        waiting_reason=reason,
        waiting_message=message,
        requests=requests,
        gates=_gates(spec),
    )


def _last_words(containers: Iterable[Json]) -> str:
    said = [((found.get("state") or {}).get("terminated") or {}).get("message") or "" for found in containers]
    lines = "\n".join(said).strip().splitlines()
    return lines[-1] if lines else ""


def _gates(spec: Json) -> tuple[str, ...]:
    return tuple(gate["name"] for gate in spec.get("schedulingGates") or ())


def _affinity(spec: Json) -> str:
    """Needed to narrow it down at ungating; later it cannot change any more."""
    is_gated, affinity = bool(spec.get("schedulingGates")), spec.get("affinity")
    return json.dumps(affinity, sort_keys=True) if is_gated and affinity else ""


def _requests(spec: Json) -> tuple[tuple[str, int], ...]:
    """Extended resources: the sum over containers, or what the neediest init container asks for."""
    total = Counter(_total(spec.get("containers") or ()))
    for container in spec.get("initContainers") or ():
        for name, amount in _total([container]).items():
            total[name] = max(total[name], amount)
    return tuple(sorted(total.items()))


def _total(containers: Iterable[Json]) -> Counter[str]:
    total: Counter[str] = Counter()
    for container in containers:
        total.update(extended((container.get("resources") or {}).get("requests")))
    return total


def _waiting(containers: Iterable[Json]) -> tuple[str, str]:
    """Why the first container that waits does; the normal start is no reason."""
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
            ended = (container.get("lastState") or {}).get("terminated") or {}
            said = ended.get("message") or waiting.get("message") or ""
            return waiting.get("reason", ""), said.strip().splitlines()[-1] if said.strip() else ""
    return "", ""


def _true_since(condition: Json | None) -> str:
    if condition is None or condition["status"] != "True":
        return ""
    return condition.get("lastTransitionTime") or "always"


def _false_since(condition: Json) -> float | None:
    since = condition.get("lastTransitionTime")
    return datetime.fromisoformat(since).timestamp() if since and condition["status"] == "False" else None


def _unschedulable(condition: Json | None) -> tuple[float | None, str]:
    """Since when, and the scheduler's first sentence: the rest is about preemption."""
    if condition is None or condition["status"] == "True" or condition.get("reason") != "Unschedulable":
        return None, ""
    since = condition.get("lastTransitionTime")
    at = datetime.fromisoformat(since).timestamp() if since else 0.0
    return at, condition.get("message", "").partition(". ")[0][:_LONGEST_REASON]
