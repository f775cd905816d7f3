"""Kubernetes Events on a service. The same event again within some minutes is not written again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

from proa_operator import names
from proa_operator.api.service import API_VERSION, KIND
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.cache import Stored
from proa_operator.cluster.errors import Conflict
from proa_operator.cluster.kinds import EVENT
from proa_operator.plan.actions import Note

QUIET_SECONDS = 300.0
_MOST = 4096
_LONGEST_MESSAGE = 1000  # the API server refuses more than 1024 characters


class Events:
    """Names are digests of what is said, so that a replica that takes over counts on instead of repeating."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._said: OrderedDict[str, float] = OrderedDict()

    async def say(self, service: Stored, note: Note, now: float) -> None:
        """Write it, unless it was written lately. Raises ApiError and Unreachable."""
        body = event_body(service, note, now)
        name = body["metadata"]["name"]
        if now - self._said.get(name, -QUIET_SECONDS) < QUIET_SECONDS:
            return
        ref = Ref(kind=EVENT, name=name, namespace=service.namespace)
        try:
            await self._api.create(ref, body)
        except Conflict:
            again = {"lastTimestamp": body["lastTimestamp"]}
            await self._api.merge_patch(ref, again, manager=names.MANAGER)
        self._said[name] = now
        self._said.move_to_end(name)
        if len(self._said) > _MOST:
            self._said.popitem(last=False)


def event_body(service: Stored, note: Note, now: float) -> dict[str, Any]:
    """core/v1 Event."""
    message = note.message[:_LONGEST_MESSAGE]
    digest = hashlib.sha256("\0".join((service.uid, note.type, note.reason, message)).encode()).hexdigest()[:16]
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{service.name}.{digest}", "namespace": service.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": service.name,
            "namespace": service.namespace,
            "uid": service.uid,
        },
        "type": note.type.value,
        "reason": note.reason,
        "message": message,
        "source": {"component": names.MANAGER},
        "reportingComponent": names.MANAGER,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
