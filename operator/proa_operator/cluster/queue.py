"""The backlog with a clock, and the tasks that work on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from proa_operator import metrics
from proa_operator.cluster.backlog import Backlog
from proa_operator.cluster.cache import ServiceKey
from proa_operator.cluster.errors import ClusterError

log = logging.getLogger(__name__)

Work = Callable[[ServiceKey, float], Awaitable[None]]
"""A service, and since when on the loop's clock it has been due."""


class Queue:
    """Loop-local. `work` raises ClusterError for what is worth another try.

    There are more workers than writes at a time (see `Api`): most of them wait, each for the write of its service.
    """

    def __init__(self, work: Work, *, num_workers: int = 64) -> None:
        self._work = work
        self._num_workers = num_workers
        self._backlog: Backlog[ServiceKey] = Backlog()
        self._news = asyncio.Event()

    def add(self, *keys: ServiceKey) -> None:
        """Plan these services soon."""
        now = asyncio.get_running_loop().time()
        for key in keys:
            self._backlog.add(key, now)
        self._news.set()

    def add_after(self, key: ServiceKey, seconds: float) -> None:
        """Plan this service in so many seconds."""
        self._backlog.add_at(key, asyncio.get_running_loop().time() + max(0.0, seconds))
        self._news.set()

    def forget(self, key: ServiceKey) -> None:
        """The service is gone."""
        self._backlog.forget(key)

    def age(self) -> float:
        """Seconds that the most delayed service waits or runs. Tells the metrics how many wait."""
        now = asyncio.get_running_loop().time()
        metrics.QUEUE_DEPTH.set(self._backlog.depth(now))
        return self._backlog.age(now)

    async def run(self) -> None:
        """Until it is cancelled."""
        slots = asyncio.Semaphore(self._num_workers)
        async with asyncio.TaskGroup() as group:
            while True:
                await slots.acquire()
                group.create_task(self._one(*await self._next(), slots))

    async def _next(self) -> tuple[ServiceKey, float]:
        loop = asyncio.get_running_loop()
        while (found := self._backlog.pop(loop.time())) is None:
            self._news.clear()
            due = self._backlog.next_due()
            try:
                async with asyncio.timeout_at(due):
                    await self._news.wait()
            except TimeoutError:
                continue
        return found

    async def _one(self, key: ServiceKey, due: float, slots: asyncio.Semaphore) -> None:
        loop, outcome = asyncio.get_running_loop(), "failed"
        started = loop.time()
        try:
            await self._work(key, due)
            outcome = "done"
        except ClusterError as error:
            log.warning("reconcile failed", extra={"namespace": key[0], "service": key[1], "error": str(error)})
        except Exception:  # NOTE: a defect that one service brings out must not stop all others
            outcome = "defect"
            log.exception("defect in reconcile", extra={"namespace": key[0], "service": key[1]})
        finally:
            metrics.RECONCILE_SECONDS.labels(outcome=outcome).observe(loop.time() - started)
            self._backlog.finish(key, loop.time(), is_failed=outcome != "done")
            self._news.set()
            slots.release()
