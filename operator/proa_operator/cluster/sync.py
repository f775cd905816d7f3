"""Whole lists into the cache: at the start, where a watch has lost its place, and every few minutes.

Watches tell what changes. They do not tell when everything that exists has been seen, nor what was deleted while a
stream was down; the lists do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from proa_operator import metrics, names
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.cache import Cache, ServiceKey, Stored
from proa_operator.cluster.errors import Gone
from proa_operator.cluster.kinds import POD, SERVICE, Kind

log = logging.getLogger(__name__)


class Sync:
    """Lists of all kinds in the watched namespaces; no namespaces are all of them. Raises ApiError and Unreachable."""

    def __init__(self, api: Api, cache: Cache, kinds: tuple[Kind, ...], namespaces: Iterable[str]) -> None:
        self._api, self._cache, self.kinds = api, cache, kinds
        self._namespaces = tuple(namespaces) or ("",)
        self._versions: dict[tuple[str, str], int] = {}

    def parts(self, *kinds: Kind) -> list[tuple[Kind, str]]:
        """Each list that there is of these kinds, as (kind, namespace)."""
        return [(kind, space) for kind in kinds for space in (self._namespaces if kind.is_namespaced else ("",))]

    def version(self, kind: Kind, namespace: str) -> int:
        """Of the list when it was last read; 0 before."""
        return self._versions.get((kind.name, namespace), 0)

    async def run(self, rest_seconds: float = 0.0) -> None:
        """All lists, one after the other, with a rest after each page: who reads on the side leaves time for events."""
        for kind in self.kinds:
            await self.read_all(kind, rest_seconds)

    async def read_all(self, kind: Kind, rest_seconds: float = 0.0) -> None:
        """All lists of one kind."""
        for _, namespace in self.parts(kind):
            await self.read(kind, namespace, rest_seconds)
        metrics.CACHED_OBJECTS.labels(kind=kind.name).set(self._cache.count(kind))

    async def read(self, kind: Kind, namespace: str, rest_seconds: float = 0.0) -> int:
        """One list; its version."""
        known = [found for found in self._cache.all(kind) if namespace in ("", found.namespace)]
        version = await self._list(kind, namespace, selector(kind, namespace), known, rest_seconds)
        self._versions[kind.name, namespace] = version
        return version

    async def confirm(self, key: ServiceKey) -> None:
        """One service and all that carries its name, as the API server has it now."""
        namespace, name = key
        children = self._cache.children(key)
        own = [kind for kind in self.kinds if kind.is_child]
        lists = (
            self._list(
                kind, namespace, _of_service(kind, name), [found for found in children if found.kind == kind.name]
            )
            for kind in own
        )
        await asyncio.gather(self.read_service(key), *lists)

    async def read_service(self, key: ServiceKey) -> None:
        """One service, without what belongs to it."""
        known = self._cache.get(SERVICE, *key)
        try:
            self._cache.put(SERVICE, await self._api.get(Ref(kind=SERVICE, namespace=key[0], name=key[1])))
        except Gone:
            if known is not None:
                self._cache.remove(SERVICE, *key, known.uid)

    async def _list(
        self, kind: Kind, namespace: str, query: Mapping[str, str], known: list[Stored], rest_seconds: float = 0.0
    ) -> int:
        """What of `known` is older than the list and not in it is gone."""
        listed: set[str] = set()
        at = 0
        try:
            async for items, version in self._api.pages(kind, namespace, query):
                at = version
                for body in items:
                    self._cache.put(kind, body)
                    listed.add(body["metadata"]["uid"])
                await asyncio.sleep(rest_seconds)
        except Gone:
            if not kind.is_optional:
                raise
            at = max((found.version for found in known), default=0)
        for found in known:
            if found.uid not in listed and found.version <= at:
                self._cache.remove(kind, found.namespace, found.name, found.uid, at)
        return at


def selector(kind: Kind, namespace: str) -> dict[str, str]:
    """Query that leaves other people's objects on the server; of all pods in a cluster the nodes' room is counted."""
    selects_own = kind.is_child and not (kind is POD and not namespace)
    return {"labelSelector": kind.selector} if selects_own else {}


def _of_service(kind: Kind, name: str) -> dict[str, str]:
    return {"labelSelector": kind.selector.replace(names.SERVICE_LABEL, f"{names.SERVICE_LABEL}={name}", 1)}
