"""A small client of the API server with all rights, whose requests the audit log tells apart by their user agent."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from testbed.control_plane import ControlPlane

Document = dict[str, Any]
T = TypeVar("T")
AGENT = "proa-bench"
_SECONDS = 60.0


class Client:
    """An async context manager. RuntimeError with the server's words for an answer that is no success."""

    def __init__(self, bed: ControlPlane) -> None:
        """Not connected yet."""
        self._server = bed.server
        self._tls = ssl.create_default_context(cafile=str(bed.authority.certificate))
        self._tls.load_cert_chain(bed.run / "pki" / "admin.crt", bed.run / "pki" / "admin.key")

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=32)
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers={"User-Agent": AGENT})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Document:
        """An object or a whole list."""
        return await self._send("GET", path, query=query)

    async def create(self, path: str, body: Document) -> Document:
        """A new object."""
        return await self._send("POST", path, body=body)

    async def patch(self, path: str, body: Document, *, kind: str = "merge") -> Document:
        """A merge patch, or one of the given `kind`."""
        return await self._send("PATCH", path, body=body, content=f"application/{kind}-patch+json")

    async def delete(self, path: str) -> Document:
        """Delete an object."""
        return await self._send("DELETE", path)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Document | None = None,
        query: dict[str, str] | None = None,
        content: str = "application/json",
    ) -> Document:
        text, headers = None if body is None else json.dumps(body), {"Content-Type": content}
        url = self._server + path
        async with self._session.request(method, url, params=query, data=text, headers=headers) as answer:
            found: Document = await answer.json()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {found.get('message')}")
            return found


async def all_of(items: Iterable[T], work: Callable[[T], Awaitable[object]], *, at_once: int) -> None:
    """`work` on every item, so many at a time."""
    slots = asyncio.Semaphore(at_once)

    async def one(item: T) -> None:
        async with slots:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(one(item))
