"""The status subresources of a service and its pools, written only when they say something new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
        assert isinstance(scope.service.facts, ServiceFacts)
        await self._one(scope.service, scope.service.facts.body.get("status") or {}, status)
        for role, counts in (status.get("pools") or {}).items():
            pool = scope.children.get((POOL.name, names.pool_name(scope.service.name, role)))
            if pool is not None and isinstance(pool.facts, PoolFacts):
                await self._one(pool, pool.facts.status, pool_status(scope.service, pool.facts, counts))

    def forget(self, uid: str) -> None:
        """The object is gone."""
        self._told.pop(uid, None)

    async def _one(self, target: Stored, present: Json, wanted: Json) -> None:
        """The API server drops fields that its schema does not know: what it made of a status is not news either."""
        if wanted == present or self._told.get(target.uid) == (_digest(wanted), _digest(present)):
            return
        kind = KINDS[target.kind]
        ref = Ref(kind=kind, name=target.name, namespace=target.namespace, subresource="status")
        patch: list[Json] = [
            {"op": "test", "path": "/metadata/uid", "value": target.uid},
            {"op": "add", "path": "/status", "value": wanted},
        ]
        answer = await self._api.json_patch(ref, patch)
        self._told[target.uid] = (_digest(wanted), _digest(answer.get("status") or {}))
        self._cache.put(kind, answer)


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
