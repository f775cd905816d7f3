"""Reading a cluster: one connection, single objects, and all that the planner would see of a service."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from proa_operator import names
from proa_operator.cli.errors import NotFound, explained
from proa_operator.cli.kubeconfig import Login, login
from proa_operator.cli.where import Where
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.cache import Cache, ServiceKey, Stored
from proa_operator.cluster.connect import Connection
from proa_operator.cluster.errors import Gone, Refused
from proa_operator.cluster.kinds import CHILDREN, NODE, POD, SERVICE, Kind
from proa_operator.plan.state import NodeState

Json = dict[str, Any]
MANAGER = "proa"  # field manager of what a person changes by a command
_EARLY_SECONDS = 30.0


class KubeconfigConnection(Connection):
    """A connection for people: any context of any kubeconfig, with credential plugins."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._login = self._fresh()
        self.server = self._login.info.server.rstrip("/")

    @property
    def namespace(self) -> str:
        """Asked for, or the context's."""
        return self._where.namespace or self._login.namespace

    def session(self, most_connections: int = 16) -> aiohttp.ClientSession:
        """Open; the caller closes it."""
        info = self._login.info
        connector = aiohttp.TCPConnector(ssl=info.ssl_context(), limit=most_connections)
        return aiohttp.ClientSession(connector=connector, proxy=info.proxy_url)

    def headers(self, now: float) -> dict[str, str]:
        """Authorization; a token that is about to end is replaced."""
        ends = self._login.expires_at
        if ends is not None and time.time() > ends - _EARLY_SECONDS:
            self._login = self._fresh()
        return self._login.info.headers()

    def _fresh(self) -> Login:
        return login(os.environ, kubeconfig=self._where.kubeconfig, context=self._where.context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """A service with everything that carries its label."""

    service: Stored | None
    """None: there is no such service."""
    body: Json | None
    """The same as the API server has it."""
    children: list[Stored]
    bodies: dict[tuple[str, str], Json]
    """By kind and name, as the API server has them."""

    def applied(self) -> dict[tuple[str, str], str]:
        """By kind and name: the digest of what the operator applied last, empty for none."""
        return {(child.kind, child.name): child.applied for child in self.children}


class Cluster:
    """Raises what `errors.explained` makes of the API client's errors, which `connected` does for a whole command."""

    def __init__(self, api: Api, namespace: str, server: str) -> None:
        self.api, self.namespace, self.server = api, namespace, server

    async def service(self, name: str) -> Json:
        """NotFound when there is none of that name."""
        return await self.api.get(Ref(kind=SERVICE, name=name, namespace=self.namespace))

    async def all(self, kind: Kind, namespace: str, selector: str = "") -> list[Json]:
        """Every object of a kind; an empty namespace is all of them."""
        query = {"labelSelector": selector} if selector else {}
        named = {"apiVersion": kind.api_version, "kind": kind.name}  # an item of a list does not say what it is
        return [{**named, **item} async for items, _ in self.api.pages(kind, namespace, query) for item in items]

    async def owned(self, kind: Kind, service: Json) -> list[Json]:
        """Objects of a kind that the service itself owns: a StatefulSet's own revisions bear the same labels."""
        meta = service["metadata"]
        found = await self.all(kind, meta["namespace"], f"{names.SERVICE_LABEL}={meta['name']}")
        return [item for item in found if meta["uid"] in _owners(item)]

    async def children(self, name: str) -> Children:
        """Of a service that may not exist; kinds whose CRDs are missing have none."""
        cache, bodies, body = Cache(_nobody_waits), {}, None
        reads = [self._labelled(kind, name) for kind in CHILDREN]
        for kind, items in zip(CHILDREN, await asyncio.gather(*reads), strict=True):
            for item in items:
                cache.put(kind, item)
                bodies[kind.name, item["metadata"]["name"]] = item
        try:
            body = await self.service(name)
            cache.put(SERVICE, body)
        except Gone as error:
            if "could not find the requested resource" in error.message:
                raise
        key = (self.namespace, name)
        return Children(service=cache.get(SERVICE, *key), body=body, children=cache.children(key), bodies=bodies)

    async def nodes(self, name: str) -> tuple[dict[str, NodeState] | None, int]:
        """All nodes with what pods take from them, and unbound pods of other services; None: we may not see them."""
        cache = Cache(_nobody_waits)
        try:
            for kind in (NODE, POD):
                for item in await self.all(kind, ""):
                    cache.put(kind, item)
        except Refused:
            return None, 0
        return dict(cache.nodes.states), cache.nodes.unbound_besides((self.namespace, name))

    async def _labelled(self, kind: Kind, name: str) -> list[Json]:
        try:
            return await self.all(kind, self.namespace, f"{names.SERVICE_LABEL}={name}")
        except Gone:
            if kind.is_optional:
                return []
            raise


def _owners(item: Json) -> list[str]:
    return [owner["uid"] for owner in item["metadata"].get("ownerReferences") or ()]


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Cluster]:
    """The cluster that the options choose."""
    connection = KubeconfigConnection(where)
    api = Api(connection)
    try:
        with explained(connection.server):
            yield Cluster(api, connection.namespace, connection.server)
    finally:
        await api.close()


def _nobody_waits(_: set[ServiceKey]) -> None:
    """A command plans once: it needs no news of its cache."""


def required(found: Children, name: str, namespace: str) -> Stored:
    """The service itself. NotFound when there is none."""
    if found.service is None:
        raise NotFound(f"no DisaggregatedService {name} in namespace {namespace}; `proa status -A` lists all services")
    return found.service
