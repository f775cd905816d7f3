"""Two small HTTP servers: probes of the kubelet, and metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from proa_operator.errors import ServeError

Trouble = Callable[[], str]
"""Empty when all is well, else what is not."""


async def serve_probes(stack: AsyncExitStack, port: int, *, alive: Trouble, ready: Trouble) -> int:
    """/healthz and /readyz until the stack ends; returns the port, for 0 a free one."""
    return await _serve(stack, port, {"/healthz": _probe(alive), "/readyz": _probe(ready)})


async def serve_metrics(stack: AsyncExitStack, port: int) -> int:
    """/metrics until the stack ends; returns the port."""
    return await _serve(stack, port, {"/metrics": _metrics})


def _probe(trouble: Trouble) -> Callable[[web.Request], object]:
    async def answer(_: web.Request) -> web.Response:
        found = trouble()
        return web.Response(text=found or "ok", status=503 if found else 200)

    return answer


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _serve(stack: AsyncExitStack, port: int, routes: dict[str, Callable[[web.Request], object]]) -> int:
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])  # type: ignore[arg-type]
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, None, port).start()
    except OSError as error:
        raise ServeError(
            f"port {port} cannot be opened: {error.strerror}; set PROA_HEALTH_PORT or PROA_METRICS_PORT"
        ) from None
    return int(runner.addresses[0][1])
