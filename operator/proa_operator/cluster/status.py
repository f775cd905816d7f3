"""The status subresources of a service and its pools, written only when they say something new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from proa_operator import names
from proa_operator.cluster.act import Scope
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.cache import Cache, Stored
from proa_operator.cluster.facts import PoolFacts, ServiceFacts
from proa_operator.cluster.kinds import KINDS, POOL
from proa_operator.names import Component, Role

Json = dict[str, Any]


class StatusWriter:
    """Raises ApiError, Unreachable and LostLease."""

    def __init__(self, api: Api, cache: Cache) -> None:
        self._api, self._cache = api, cache
        self._told: dict[str, tuple[str, str]] = {}

    async def write(self, scope: Scope, status: Json) -> None:
        """Of the service and of each of its pools."""
        for target, present, wanted in _statuses(scope, status):
            if self._is_news(target, present, wanted):
                await self._one(target, wanted)

    def is_news(self, scope: Scope, status: Json) -> bool:
        """Whether `write` would send anything."""
        return any(self._is_news(*one) for one in _statuses(scope, status))

    def forget(self, uid: str) -> None:
        """The object is gone."""
        self._told.pop(uid, None)

    def _is_news(self, target: Stored, present: Json, wanted: Json) -> bool:
        """The API server drops fields that its schema does not know: what it made of a status is not news either."""
        return wanted != present and self._told.get(target.uid) != (_digest(wanted), _digest(present))

    async def _one(self, target: Stored, wanted: Json) -> None:
        kind = KINDS[target.kind]
        ref = Ref(kind=kind, name=target.name, namespace=target.namespace, subresource="status")
        patch: list[Json] = [
            {"op": "test", "path": "/metadata/uid", "value": target.uid},
            {"op": "add", "path": "/status", "value": wanted},
        ]
        answer = await self._api.json_patch(ref, patch)
        self._told[target.uid] = (_digest(wanted), _digest(answer.get("status") or {}))
        self._cache.put(kind, answer)


def _statuses(scope: Scope, status: Json) -> Iterator[tuple[Stored, Json, Json]]:
    """Each object with its present status and the wanted one."""
    assert isinstance(scope.service.facts, ServiceFacts)
    yield scope.service, scope.service.facts.body.get("status") or {}, status
    for role, counts in (status.get("pools") or {}).items():
        pool = scope.children.get((POOL.name, names.pool_name(scope.service.name, role)))
        if pool is not None and isinstance(pool.facts, PoolFacts):
            yield pool, pool.facts.status, pool_status(scope.service, pool.facts, counts)


def pool_status(service: Stored, pool: PoolFacts, counts: Mapping[str, int]) -> Json:
    """What /scale and the printer columns read. The selector names leaders: an autoscaler divides by their number."""
    labels = {
        names.SERVICE_LABEL: service.name,
        names.COMPONENT_LABEL: Component.WORKER.value,
        names.ROLE_LABEL: Role(pool.role).value,
        names.POD_INDEX_LABEL: "0",
    }
    return {
        "observedGeneration": pool.generation,
        "replicas": counts["replicas"],
        "readyReplicas": counts["routable"],
        "selector": ",".join(f"{name}={value}" for name, value in labels.items()),
    }


def refused_status(service: Stored, message: str, since: str) -> Json:
    """Of a service whose stored manifest this version cannot read."""
    assert isinstance(service.facts, ServiceFacts)
    body = service.facts.body
    generation = body["metadata"]["generation"]
    old: list[Json] = (body.get("status") or {}).get("conditions") or []
    was = next((found for found in old if found["type"] == "Degraded"), {})
    condition = {
        "type": "Degraded",
        "status": "True",
        "reason": "SpecRefused",
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": was["lastTransitionTime"] if was.get("status") == "True" else since,
    }
    others = [found for found in old if found["type"] != "Degraded"]
    return {**(body.get("status") or {}), "observedGeneration": generation, "conditions": [*others, condition]}


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
