"""Patches of pods. Neither can be a server-side apply: an applied empty list leaves a scheduling gate where it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from proa_operator import names
from proa_operator.cluster.cache import Stored
from proa_operator.cluster.facts import PodFacts
from proa_operator.plan.actions import Route

Json = dict[str, Any]


def ungate_patch(pod: Stored, avoid: Iterable[str] = ()) -> list[Json]:
    """JSON patch that takes the gang gate off, and first keeps the pod off some nodes.

    A gated pod's node affinity may only become narrower, so the condition is added to each of its terms.
    """
    facts = pod.facts
    assert isinstance(facts, PodFacts)
    gates = [{"name": gate} for gate in facts.gates]
    left = [gate for gate in gates if gate["name"] != names.GANG_GATE]
    patch: list[Json] = [
        {"op": "test", "path": "/metadata/uid", "value": pod.uid},
        {"op": "test", "path": "/spec/schedulingGates", "value": gates},
    ]
    if nodes := sorted(avoid):
        patch.append({"op": "add", "path": "/spec/affinity", "value": _narrowed(facts.affinity, nodes)})
    gone: Json = {"op": "remove", "path": "/spec/schedulingGates"}
    patch.append({"op": "replace", "path": "/spec/schedulingGates", "value": left} if left else gone)
    return patch


def routable_patch(pod: Stored, route: Route, now: float) -> Json:
    """Strategic merge patch of a pod's status: conditions merge by their type."""
    assert isinstance(pod.facts, PodFacts)
    status = "True" if route.is_routable else "False"
    condition = {"type": names.ROUTABLE_CONDITION, "status": status, "reason": route.reason.value}
    condition["message"] = route.message
    if pod.facts.routable != status:
        condition["lastTransitionTime"] = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}


def _narrowed(affinity: str, nodes: list[str]) -> Json:
    found: Json = json.loads(affinity) if affinity else {}
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    of_nodes = found.get("nodeAffinity") or {}
    terms = (of_nodes.get(key) or {}).get("nodeSelectorTerms") or [{}]
    # NOTE: matchFields takes one value for each condition.
    others = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
    narrowed = [{**term, "matchFields": [*term.get("matchFields", ()), *others]} for term in terms]
    return {**found, "nodeAffinity": {**of_nodes, key: {"nodeSelectorTerms": narrowed}}}
