"""Connections to one endpoint, one HTTP client each.

httpx's own pool looks through all its connections for each request and again for each response: with 64 streams that
is 1 ms of the one interpreter per request, three times the rest of the work. A free list has no such cost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self

import httpx

from proa_operator.bench.client import CONNECT_ONLY, Endpoint, headers


class Connections:
    """A free list of clients with one connection each; grows as the load asks, closed with the context."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tls = ssl.create_default_context()
        self._all: list[httpx.AsyncClient] = []
        self._free: list[httpx.AsyncClient] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.gather(*(client.aclose() for client in self._all))

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client that nobody else uses; the one used last comes first, its connection is warm."""
        client = self._free.pop() if self._free else self._open()
        try:
            yield client
        finally:
            self._free.append(client)

    def _open(self) -> httpx.AsyncClient:
        client = httpx.AsyncClient(timeout=CONNECT_ONLY, verify=self._tls, trust_env=False)
        self._all.append(client)
        return client

    async def warm(self, num_connections: int, timeout_seconds: float) -> None:
        """Connects, so that the first requests of a closed loop do not queue up behind each other's handshakes.

        A connection that fails here, or takes longer than `timeout_seconds`, is left to the request that will want it,
        which records the reason.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(*(self._touch() for _ in range(num_connections)))

    async def _touch(self) -> None:
        async with self.lease() as client:
            try:
                await client.get(f"{self._endpoint.url}/v1/models", headers=headers(self._endpoint))
            except httpx.HTTPError:
                return
