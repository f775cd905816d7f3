"""Load of a worker, from its /metrics."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """What one worker does now."""

    running: int
    """Requests in the batch."""
    waiting: int
    """Requests in the queue."""
    kv_usage: float
    """Share of KV blocks in use, 0 to 1."""


async def worker_load(client: httpx.AsyncClient, url: str) -> WorkerLoad | None:
    """The load of the worker behind `url`, or None when it does not answer or has no such metrics."""
    try:
        answer = await client.get(url)
    except httpx.HTTPError:
        return None
    return parse_load(answer.text) if answer.status_code == 200 else None


def parse_load(text: str) -> WorkerLoad | None:
    """The load in a /metrics page with vLLM's names; None when one of them is missing."""
    running = gauge_total(text, "vllm:num_requests_running")
    waiting = gauge_total(text, "vllm:num_requests_waiting")
    kv_usage = gauge_total(text, "vllm:kv_cache_usage_perc")
    if running is None or waiting is None or kv_usage is None:
        return None
    return WorkerLoad(running=int(running), waiting=int(waiting), kv_usage=kv_usage)


def gauge_total(text: str, name: str) -> float | None:
    """Sum of all samples of one gauge in a /metrics page; None when there is none."""
    lines = [line for line in text.splitlines() if line.startswith(name)]  # a gateway's page has a thousand lines
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    values = [sample.value for family in families for sample in family.samples if sample.name == name]
    return sum(values) if values else None
