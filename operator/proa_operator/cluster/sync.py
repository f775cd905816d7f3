"""Whole lists into the cache: at the start, when this replica becomes the leader, and every few minutes.

kopf's streams tell what changes. They do not tell when everything that exists has been seen, nor what was deleted while
a stream was down; the lists do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from proa_operator import metrics
from proa_operator.cluster.api import Api
from proa_operator.cluster.cache import Cache
from proa_operator.cluster.errors import Gone
from proa_operator.cluster.kinds import POD, Kind

log = logging.getLogger(__name__)


class Sync:
    """Lists of all kinds in the watched namespaces; no namespaces are all of them."""

    def __init__(self, api: Api, cache: Cache, kinds: tuple[Kind, ...], namespaces: Iterable[str]) -> None:
        self._api, self._cache, self._kinds = api, cache, kinds
        self._namespaces = tuple(namespaces) or ("",)

    async def run(self) -> None:
        """Raises ApiError and Unreachable."""
        for kind in self._kinds:
            for namespace in self._namespaces if kind.is_namespaced else ("",):
                await self._one(kind, namespace)
            metrics.CACHED_OBJECTS.labels(kind=kind.name).set(self._cache.count(kind))

    async def _one(self, kind: Kind, namespace: str) -> None:
        known = [found for found in self._cache.all(kind) if namespace in ("", found.namespace)]
        selects_own = kind.is_child and not (kind is POD and not namespace)
        query = {"labelSelector": kind.selector} if selects_own else {}
        listed: set[str] = set()
        at = 0
        try:
            async for items, version in self._api.pages(kind, namespace, query):
                at = version
                for body in items:
                    self._cache.put(kind, body)
                    listed.add(body["metadata"]["uid"])
        except Gone:
            if not kind.is_optional:
                raise
            at = max((found.version for found in known), default=0)
        for found in known:
            if found.uid not in listed and found.version <= at:
                self._cache.remove(kind, found.namespace, found.name, found.uid)
