"""Drives a load at an endpoint: closed loop (fixed concurrency) or open loop (arrival times)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from proa_operator.bench.client import Endpoint, Outgoing, ask, outgoing
from proa_operator.bench.connections import Connections
from proa_operator.bench.prompt import TokenDensity, prompt_text
from proa_operator.bench.record import RequestRecord
from proa_operator.bench.workload import RequestPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Records in the order in which requests ended, and the seconds from the start to the last end."""

    records: tuple[RequestRecord, ...]
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """One run against one endpoint. `seconds` stops the sending, not the reading: every answer is awaited (each
    bounded by the endpoint's timeout). `on_end` is called after each request."""

    connections: Connections
    endpoint: Endpoint
    density: TokenDensity
    seed: int
    seconds: float | None
    on_end: Callable[[RequestRecord], None]

    async def closed_loop(self, plans: Iterable[RequestPlan], concurrency: int) -> Run:
        """Keeps `concurrency` requests in flight; ignores due times."""
        source = iter(plans)
        ready = [self._prepare(plan) for _, plan in zip(range(concurrency), source, strict=False)]
        await self.connections.warm(len(ready), self.endpoint.timeout_seconds)
        start = time.perf_counter()
        records: list[RequestRecord] = []
        async with asyncio.TaskGroup() as tasks:
            for first in ready:
                tasks.create_task(self._user(first, source, start, records))
        return _finish(records)

    async def _user(
        self, first: Outgoing, source: Iterator[RequestPlan], start: float, records: list[RequestRecord]
    ) -> None:
        out: Outgoing | None = first
        while out is not None:
            await self._ask(out, start, records)
            plan = None if self._is_over(start) else next(source, None)
            out = None if plan is None else self._prepare(plan)

    async def open_loop(self, plans: Iterable[RequestPlan]) -> Run:
        """Sends each plan at its due time, however many are in flight."""
        start = time.perf_counter()
        records: list[RequestRecord] = []
        async with asyncio.TaskGroup() as tasks:
            for plan in plans:
                assert plan.due_seconds is not None
                if self.seconds is not None and plan.due_seconds > self.seconds:
                    break
                out = self._prepare(plan, plan.due_seconds)
                await asyncio.sleep(max(0.0, start + plan.due_seconds - time.perf_counter()))
                tasks.create_task(self._ask(out, start, records))
        return _finish(records)

    def _is_over(self, start: float) -> bool:
        return self.seconds is not None and time.perf_counter() - start >= self.seconds

    def _prepare(self, plan: RequestPlan, due_seconds: float | None = None) -> Outgoing:
        prompt = prompt_text(plan, self.density, self.seed)
        return outgoing(self.endpoint, prompt, plan.output_tokens, plan.request_idx, due_seconds)

    async def _ask(self, out: Outgoing, start: float, records: list[RequestRecord]) -> None:
        async with self.connections.lease() as client:
            record = await ask(client, out, start=start, timeout_seconds=self.endpoint.timeout_seconds)
        records.append(record)
        self.on_end(record)


def _finish(records: list[RequestRecord]) -> Run:
    return Run(records=tuple(records), duration_seconds=max((r.end_seconds for r in records), default=0.0))


def poisson_times(rate: float, seed: int) -> Iterator[float]:
    """Arrival times in seconds of a Poisson process of `rate` requests per second; the first is at 0."""
    rng = np.random.default_rng([seed, 1 << 20])
    now = 0.0
    while True:
        yield now
        now += float(rng.exponential(1 / rate))
