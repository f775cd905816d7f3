"""Asks a process whether it serves."""

from __future__ import annotations

import grpc
import grpc.aio
import httpx

from proa_operator.local.process import GatewayServing, GrpcServing, HttpServing, IdleGauge
from proa_operator.local.scrape import gauge_total

ASK_SECONDS = 2.0
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}, by hand: two bytes do not need another package


async def is_ready(sign: GrpcServing | GatewayServing | HttpServing) -> bool:
    """Whether the process behind `sign` serves now; an unreachable one does not."""
    if isinstance(sign, GrpcServing):
        return await _is_grpc_serving(sign.address)
    if isinstance(sign, HttpServing):
        return await _answers(sign.url)
    return await _has_healthy_workers(sign)


async def is_idle(gauge: IdleGauge) -> bool:
    """Whether the gauge is there and 0."""
    try:
        async with httpx.AsyncClient(timeout=ASK_SECONDS, trust_env=False) as client:
            answer = await client.get(gauge.url)
    except httpx.HTTPError:
        return False
    return gauge_total(answer.text, gauge.metric) == 0


async def _is_grpc_serving(address: str) -> bool:
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(_HEALTH_CHECK, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer: bytes = await check(b"", timeout=ASK_SECONDS)
        except grpc.aio.AioRpcError:
            return False
    return answer == _SERVING


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=ASK_SECONDS, trust_env=False) as client:
            return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


async def _has_healthy_workers(sign: GatewayServing) -> bool:
    try:
        async with httpx.AsyncClient(timeout=ASK_SECONDS, trust_env=False) as client:
            answer = await client.get(f"{sign.url}/readiness")
        healthy = answer.json().get("healthy_workers", 0)
    except (httpx.HTTPError, ValueError):  # ValueError: not JSON, so not the gateway's answer
        return False
    return answer.status_code == 200 and healthy >= sign.num_workers
