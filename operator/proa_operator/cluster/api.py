"""Requests to the API server, each with a deadline, counted by verb and kind."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from proa_operator import metrics, names
from proa_operator.cluster.connect import Connection
from proa_operator.cluster.errors import Conflict, Refused, Unreachable, api_error
from proa_operator.cluster.kinds import Kind

Json = dict[str, Any]
_READ_SECONDS = 30.0
_WRITE_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
_SILENT_SECONDS = 150.0  # bookmarks come every minute or so
_MOST_WRITES = 16
_PAGE = 500
_PRECONDITION_FAILED = ("test failed", "metadata.uid: Invalid value")
_AGENT = {"User-Agent": names.MANAGER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """One object, or one of its subresources."""

    kind: Kind
    name: str
    namespace: str = ""
    subresource: str = ""

    @property
    def path(self) -> str:
        """On the API server."""
        tail = f"/{self.subresource}" if self.subresource else ""
        return self.kind.path(self.namespace, self.name) + tail


def free_to_write() -> float:
    """The check of a program that shares its writes with nobody: each may take its time."""
    return _WRITE_SECONDS


class Api:
    """Raises ApiError and Unreachable.

    Before each write but the Lease's, `may_write` says how long it may take, and raises when it is not allowed. Only 16
    writes are on their way at a time, in the order in which they were asked for: a slow server is not flooded, and a
    service with one thing to write does not wait for another's fifty.
    """

    def __init__(self, connection: Connection, may_write: Callable[[], float] = free_to_write) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(_MOST_WRITES)
        self.may_write = may_write

    async def close(self) -> None:
        """End the sessions."""
        for session in (self._session, self._watches):
            if session is not None:
                await session.close()

    async def get(self, ref: Ref) -> Json:
        """The object."""
        return await self._send("GET", ref.path, what=("get", ref.kind.name), seconds=_READ_SECONDS)

    async def document(self, path: str) -> Json:
        """A document of discovery."""
        return await self._send("GET", path, what=("get", "discovery"), seconds=_READ_SECONDS)

    async def pages(
        self, kind: Kind, namespace: str, query: Mapping[str, str]
    ) -> AsyncIterator[tuple[list[Json], int]]:
        """All objects, some at a time, each time with the version of the whole list."""
        page = {**query, "limit": str(_PAGE)}
        while True:
            what = ("list", kind.name)
            found = await self._send("GET", kind.path(namespace), what=what, seconds=_READ_SECONDS, query=page)
            yield found["items"], int(found["metadata"]["resourceVersion"])
            if not (token := found["metadata"].get("continue")):
                return
            page["continue"] = token

    async def watch(
        self, kind: Kind, namespace: str, query: Mapping[str, str], *, version: int, seconds: float
    ) -> AsyncIterator[Json]:
        """What changes after `version`, as {"type", "object"}, until the server ends the stream after `seconds`.

        A stream that is silent for longer than bookmarks are apart is taken for dead.
        """
        if self._watches is None:
            self._watches = self._connection.session(most_connections=0)
        own = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(round(seconds))}
        params, path = {**query, **own, "resourceVersion": str(version)}, kind.path(namespace)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        headers = {**_AGENT, **self._connection.headers(time.monotonic())}
        try:
            async with self._watches.get(
                self._connection.server + path, params=params, headers=headers, timeout=timeout
            ) as answer:
                metrics.API_REQUESTS.labels(verb="watch", kind=kind.name, code=str(answer.status)).inc()
                if answer.status >= 400:
                    raise _refusal(answer.status, await answer.text())
                async for line in _lines(answer.content):
                    yield json.loads(line)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unreachable(f"watch {path}: {type(error).__name__} {error}") from None

    async def apply(self, ref: Ref, body: Json, *, manager: str) -> Json:
        """Server-side apply; what others own of it becomes ours."""
        query = {"fieldManager": manager, "force": "true"}
        return await self._write("PATCH", ref, body, content="application/apply-patch+yaml", query=query)

    async def json_patch(self, ref: Ref, patch: list[Json], *, manager: str = names.MANAGER) -> Json:
        """JSON patch; Conflict when one of its tests fails."""
        return await self._patch(ref, patch, "json-patch", manager)

    async def merge_patch(self, ref: Ref, patch: Json, *, manager: str) -> Json:
        """JSON merge patch. A uid in it is a precondition: Conflict for another object of that name."""
        return await self._patch(ref, patch, "merge-patch", manager)

    async def strategic_patch(self, ref: Ref, patch: Json) -> Json:
        """Strategic merge patch: conditions merge by type. A uid in it is a precondition, as in `merge_patch`."""
        return await self._patch(ref, patch, "strategic-merge-patch", names.MANAGER)

    async def create(self, ref: Ref, body: Json) -> Json:
        """Conflict when it is there already."""
        collection = Ref(kind=ref.kind, name="", namespace=ref.namespace)
        return await self._write("POST", collection, body, query={"fieldManager": names.MANAGER})

    async def review(self, ref: Ref, body: Json) -> Json:
        """A question in the form of an object; nothing is stored."""
        return await self._send("POST", ref.path, what=("review", ref.kind.name), seconds=_READ_SECONDS, body=body)

    async def replace(self, ref: Ref, body: Json) -> Json:
        """Conflict when it is not at the body's resourceVersion any more."""
        return await self._write("PUT", ref, body, query={"fieldManager": names.MANAGER})

    async def delete(self, ref: Ref, *, uid: str = "") -> Json:
        """With its dependents, which go after it."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        return await self._write("DELETE", ref, options)

    async def _patch(self, ref: Ref, patch: Json | list[Json], kind: str, manager: str) -> Json:
        """The API server calls a failed precondition invalid, and it is not the write that is wrong."""
        content, query = f"application/{kind}+json", {"fieldManager": manager}
        try:
            return await self._write("PATCH", ref, patch, content=content, query=query)
        except Refused as error:
            if any(words in error.message for words in _PRECONDITION_FAILED):
                raise Conflict(error.status, error.reason, error.message) from None
            raise

    async def _write(
        self,
        method: str,
        ref: Ref,
        body: Any,
        *,
        content: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Json:
        kind = f"{ref.kind.name}/{ref.subresource}" if ref.subresource else ref.kind.name
        send = partial(
            self._send, method, ref.path, what=(_VERBS[method], kind), query=query, body=body, content=content
        )
        if ref.kind.name == "Lease":
            return await send(seconds=_WRITE_SECONDS)
        async with self._slots:
            return await send(seconds=min(_WRITE_SECONDS, self.may_write()))

    async def _send(
        self,
        method: str,
        path: str,
        *,
        what: tuple[str, str],
        seconds: float,
        query: dict[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
    ) -> Json:
        async with self._asked(method, path, seconds, query, body, content) as answer:
            text = await answer.text()
            metrics.API_REQUESTS.labels(verb=what[0], kind=what[1], code=str(answer.status)).inc()
            if answer.status >= 400:
                raise _refusal(answer.status, text)
            found: Json = json.loads(text)
            return found

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, seconds: float, query: dict[str, str] | None, body: Any, content: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            self._session = self._connection.session()
        headers = {**_AGENT, **self._connection.headers(time.monotonic()), "Content-Type": content}
        text = None if body is None else json.dumps(body, separators=(",", ":"))
        url, timeout = self._connection.server + path, aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(
                method, url, params=query, data=text, headers=headers, timeout=timeout
            ) as answer:
                yield answer
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unreachable(f"{method} {path}: {type(error).__name__} {error}") from None


_VERBS = {"PATCH": "patch", "POST": "create", "PUT": "update", "DELETE": "delete"}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines; `content` itself refuses those that are longer than its buffer, and objects are."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _refusal(status: int, text: str) -> Exception:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    return api_error(status, answer.get("reason", "Unknown"), answer.get("message", text[:200]))
