"""The only clock-driven part: asks workers for their load, and reads whole lists again every few minutes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from proa_operator import metrics
from proa_operator.cluster.act import worker_of
from proa_operator.cluster.cache import Cache
from proa_operator.cluster.downloads import Downloads
from proa_operator.cluster.facts import PodFacts
from proa_operator.cluster.kinds import POD
from proa_operator.cluster.workers import Worker, Workers
from proa_operator.plan.state import StartPhase

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tempo:
    """Seconds."""

    tick: float = 1.0
    serving: float = 5.0
    """Between two looks at a worker that serves; one that starts or drains is asked at every tick."""
    per_worker: float = 0.005
    """Added to `serving` for each worker, so that 10,000 workers cost no more than 200 calls a second."""
    resync: float = 600.0
    """Between two reads of all lists, give or take a tenth."""


class Ticker:
    """`resync` reads all lists; `queue_age` is only reported."""

    def __init__(
        self,
        cache: Cache,
        workers: Workers,
        *,
        downloads: Downloads,
        resync: Callable[[], Awaitable[None]],
        queue_age: Callable[[], float],
        is_leader: Callable[[], bool],
        tempo: Tempo | None = None,
    ) -> None:
        self._cache, self._workers, self._downloads, self._resync = cache, workers, downloads, resync
        self._queue_age, self._is_leader = queue_age, is_leader
        self._tempo = tempo or Tempo()
        self._asked: dict[str, float] = {}
        self._downloads_at = 0.0
        self._slots = asyncio.Semaphore(64)
        self.beat = 0.0
        """When the last tick ended, on the loop's clock."""

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        self.beat = loop.time()
        next_resync = loop.time() + self._resync_pause()
        while True:
            await asyncio.sleep(self._tempo.tick)
            metrics.QUEUE_AGE_SECONDS.set(self._queue_age())
            if self._is_leader():
                await self._ask_workers(loop.time())
                await self._ask_downloads(loop.time())
            if loop.time() >= next_resync:
                await self._resync()
                next_resync = loop.time() + self._resync_pause()
            self.beat = loop.time()

    async def _ask_workers(self, now: float) -> None:
        workers = list(leaders(self._cache))
        alive = {worker.uid for worker in workers}
        self._workers.forget_all_but(alive)
        self._asked = {uid: at for uid, at in self._asked.items() if uid in alive}
        due = [worker for worker in workers if now >= self._next(worker, len(workers))]
        for worker in due:
            self._asked[worker.uid] = now
        await asyncio.gather(*(self._ask(worker) for worker in due))

    async def _ask_downloads(self, now: float) -> None:
        if now >= self._downloads_at:
            self._downloads_at = now + self._tempo.serving
            await self._downloads.read()

    async def _ask(self, worker: Worker) -> None:
        async with self._slots:
            await self._workers.read_load(worker)

    def _next(self, worker: Worker, num_workers: int) -> float:
        """When to ask it again."""
        load, asked = self._workers.loads.get(worker.uid), self._asked.get(worker.uid, 0.0)
        if worker.is_cordoned or (load is not None and load.phase is not StartPhase.SERVING):
            return asked
        return asked + self._tempo.serving + self._tempo.per_worker * num_workers

    def _resync_pause(self) -> float:
        return self._tempo.resync * random.uniform(0.9, 1.1)


def leaders(cache: Cache) -> Iterator[Worker]:
    """Workers that may answer: the first pod of each group, from the start of its container to its end."""
    for pod in cache.all(POD):
        facts = pod.facts
        if isinstance(facts, PodFacts) and facts.membership and facts.ordinal == 0 and facts.ip and _runs(facts):
            yield worker_of(pod)


def _runs(facts: PodFacts) -> bool:
    return facts.is_started and not facts.is_over
