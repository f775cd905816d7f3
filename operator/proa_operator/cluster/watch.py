"""The changes of one kind into the cache, from the version of its list on, so that nothing is read twice.

kopf's own streams list everything again, keep a record of each object for ever and run a task for each event: at
16,000 pods that is two thirds of the operator's processor time and half of its memory (bench/k8s/README.md).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from proa_operator.cluster.api import Api
from proa_operator.cluster.errors import ApiError, ClusterError, api_error
from proa_operator.cluster.kinds import Kind
from proa_operator.cluster.sync import Sync, selector

log = logging.getLogger(__name__)

OnEvent = Callable[[Kind, str, dict[str, Any]], None]
"""Kind, type and object."""
_SHORTEST_SECONDS, _LONGEST_SECONDS = 300.0, 600.0  # random, so that not all streams start again together
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_EXPIRED = 410


class Watch:
    """One kind in one namespace; an empty namespace is all of them. `sync` has read its list before."""

    def __init__(self, api: Api, sync: Sync, kind: Kind, namespace: str, on_event: OnEvent) -> None:
        self._api, self._sync, self._kind, self._namespace, self._on_event = api, sync, kind, namespace, on_event
        self._version = sync.version(kind, namespace)
        self._pause = _FIRST_PAUSE_SECONDS

    async def run(self) -> None:
        """Until it is cancelled. What fails is tried again; a version that is too old needs a new list."""
        while True:
            try:
                if not self._version:
                    self._version = await self._sync.read(self._kind, self._namespace)
                await self._follow()
                self._pause = _FIRST_PAUSE_SECONDS
            except ClusterError as error:
                if isinstance(error, ApiError) and error.status == _EXPIRED:
                    self._version = 0
                log.warning("watch ended", extra={"kind": self._kind.name, "error": str(error)})
                await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
                self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    async def _follow(self) -> None:
        seconds, query = random.uniform(_SHORTEST_SECONDS, _LONGEST_SECONDS), selector(self._kind, self._namespace)
        events = self._api.watch(self._kind, self._namespace, query, version=self._version, seconds=seconds)
        async for event in events:
            kind, body = event["type"], event["object"]
            if kind == "ERROR":
                raise api_error(body.get("code", 500), body.get("reason", "Unknown"), body.get("message", ""))
            if kind != "BOOKMARK":
                self._on_event(self._kind, kind, body)
            self._version = int(body["metadata"]["resourceVersion"])
