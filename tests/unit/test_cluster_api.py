"""Requests over a real connection on loopback: slots for writes, long lines of a watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from proa_operator.cluster import kinds
from proa_operator.cluster.api import Api, Ref

SECONDS = 60.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Loopback:
    """A connection without credentials."""

    def __init__(self, server: str) -> None:
        self.server = server

    def session(self, most_connections: int = 64) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def headers(self, now: float) -> dict[str, str]:
        return {}


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[Api]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connection: Any = Loopback(f"http://127.0.0.1:{runner.addresses[0][1]}")
    api = Api(connection)
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()


async def test_a_line_may_be_longer_than_any_buffer() -> None:
    long = {"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "7"}, "text": "x" * 400_000}}

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.query["resourceVersion"] == "6"
        response = web.StreamResponse()
        await response.prepare(request)
        for event in (long, long):
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    async with served(answer) as api:
        assert [event async for event in api.watch(kinds.NODE, "", {}, version=6, seconds=5)] == [long, long]


async def test_writes_have_slots_in_turn_and_the_lease_needs_none() -> None:
    arrived: list[str] = []
    may_end, is_full = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        arrived.append(request.path.rpartition("/")[2])
        if "leases" not in request.path:
            if len(arrived) == 16:
                is_full.set()
            await may_end.wait()
        return web.json_response({"metadata": {}})

    async with served(answer) as api:
        names = [f"p{number:02d}" for number in range(20)]
        pods = [Ref(kind=kinds.POD, namespace="n", name=name) for name in names]
        writes = [asyncio.create_task(api.merge_patch(pod, {}, manager="m")) for pod in pods]
        await asyncio.wait_for(is_full.wait(), SECONDS)
        lease = Ref(kind=kinds.LEASE, namespace="n", name="lease")
        await asyncio.wait_for(api.replace(lease, {}), SECONDS)
        assert sorted(arrived) == sorted([*names[:16], "lease"])
        may_end.set()
        await asyncio.wait_for(asyncio.gather(*writes), SECONDS)
    assert sorted(arrived) == sorted([*names, "lease"])
