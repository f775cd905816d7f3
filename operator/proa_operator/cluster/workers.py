"""What the workers told: their load, the outcome of probes, and which of them drain. Lost with this process."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace

from proa_operator.cluster.cache import ServiceKey
from proa_operator.cluster.recent_ttft import RecentTtft
from proa_operator.cluster.worker_admin import NoAnswer, Reading, WorkerAdmin
from proa_operator.plan.state import ProbeResult, WorkerLoad

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The leader of a group, at one life of its containers."""

    uid: str
    name: str
    ip: str
    service: ServiceKey
    loaded_since: str
    """Tells one life from the next: a probe of an earlier one says nothing."""
    is_cordoned: bool = False
    """On its way out: the plan waits for answers that are newer than the cordon, so each of them is news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOutcome:
    """Of the last probe that named the pod."""

    result: ProbeResult
    loaded_since: str
    ended_at: float | None = None


class Workers:
    """`on_news` is called with a service when a plan may come out differently."""

    def __init__(self, admin: WorkerAdmin, clock: Callable[[], float], on_news: Callable[[ServiceKey], None]) -> None:
        self._admin, self._clock, self._on_news = admin, clock, on_news
        self._loads: dict[str, WorkerLoad] = {}
        self._steps: dict[str, int] = {}
        self._ttft: dict[str, RecentTtft] = defaultdict(RecentTtft)
        self._probes: dict[str, ProbeOutcome] = {}
        self._draining: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def loads(self) -> Mapping[str, WorkerLoad]:
        """The last answers by uid of the pod; of workers that did not answer when last asked there is none."""
        return self._loads

    @property
    def probes(self) -> Mapping[str, ProbeOutcome]:
        """By uid of the pod."""
        return self._probes

    def probe_of(self, uid: str, loaded_since: str) -> ProbeOutcome | None:
        """Of this life of the pod's containers."""
        found = self._probes.get(uid)
        return found if found is not None and found.loaded_since == loaded_since else None

    def forget_all_but(self, uids: set[str]) -> None:
        """Pods that are gone."""
        for uid in (self._loads.keys() | self._steps.keys() | self._probes.keys()) - uids:
            self._loads.pop(uid, None)
            self._steps.pop(uid, None)
            self._ttft.pop(uid, None)
            self._probes.pop(uid, None)
        self._draining &= uids

    async def read_load(self, worker: Worker) -> None:
        """Ask for the load; no answer is an answer."""
        try:
            reading = await self._admin.load(worker.ip)
        except NoAnswer:
            if self._loads.pop(worker.uid, None) is not None:
                self._on_news(worker.service)
            return
        old, new = self._loads.get(worker.uid), self._load(worker.uid, reading)
        self._loads[worker.uid], self._steps[worker.uid] = new, reading.steps_total
        if worker.is_cordoned or old is None or _matters(old) != _matters(new):
            self._on_news(worker.service)

    def start_probe(self, prefill: Worker, decode: Worker) -> None:
        """Unless one runs for either."""
        pair = (prefill, decode)
        if not any(self._is_probed(worker) for worker in pair):
            for worker in pair:
                found = self.probe_of(worker.uid, worker.loaded_since)
                if found is None or found.result is not ProbeResult.PASSED:
                    running = ProbeOutcome(result=ProbeResult.RUNNING, loaded_since=worker.loaded_since)
                    self._probes[worker.uid] = running
            self._spawn(self._probe(pair))

    def start_drain(self, worker: Worker, timeout_seconds: float) -> None:
        """Unless it drains already, or has drained."""
        if worker.uid not in self._draining:
            self._draining.add(worker.uid)
            self._spawn(self._drain(worker, timeout_seconds))

    async def close(self) -> None:
        """End what runs in the background."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _is_probed(self, worker: Worker) -> bool:
        found = self.probe_of(worker.uid, worker.loaded_since)
        return found is not None and found.result is ProbeResult.RUNNING

    async def _probe(self, pair: tuple[Worker, Worker]) -> None:
        result = ProbeResult.FAILED
        try:
            await self._admin.probe(pair[0].ip, pair[1].ip)
            result = ProbeResult.PASSED
        except NoAnswer as error:
            log.warning("probe failed", extra={"prefill": pair[0].name, "decode": pair[1].name, "error": str(error)})
        finally:
            for worker in pair:
                self._settle(worker, result)

    def _settle(self, worker: Worker, result: ProbeResult) -> None:
        """A failure says nothing against a pod that has passed with another partner."""
        found = self.probe_of(worker.uid, worker.loaded_since)
        if found is None or (result is ProbeResult.FAILED and found.result is ProbeResult.PASSED):
            return
        self._probes[worker.uid] = replace(found, result=result, ended_at=self._clock())
        self._on_news(worker.service)

    async def _drain(self, worker: Worker, timeout_seconds: float) -> None:
        """One that broke off may be started again; one that is done stays done."""
        try:
            await self._admin.drain(worker.ip, timeout_seconds, lambda: self._on_news(worker.service))
        except NoAnswer as error:
            log.warning("drain broke off", extra={"pod": worker.name, "error": str(error)})
            self._draining.discard(worker.uid)

    def _load(self, uid: str, reading: Reading) -> WorkerLoad:
        now, old = self._clock(), self._loads.get(uid)
        has_stepped = old is None or self._steps.get(uid) != reading.steps_total
        is_idle = not (reading.running or reading.waiting)  # an idle worker owes no step: its first request is no stall
        ttft_seconds, ttft_count = self._ttft[uid].add(now, reading.ttft_seconds_total, reading.ttft_count)
        return WorkerLoad(
            seen_at=now,
            phase=reading.phase,
            fraction=reading.fraction,
            running=reading.running,
            waiting=reading.waiting,
            leases=reading.leases,
            stepped_at=now if has_stepped or is_idle or old is None else old.stepped_at,
            finished_total=reading.finished_total,
            failed_total=reading.failed_total,
            ttft_seconds=ttft_seconds,
            ttft_count=ttft_count,
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _matters(load: WorkerLoad) -> tuple[object, ...]:
    """What makes another plan at once; the rest is read when the plan is made anyway."""
    is_at_rest = (load.running == 0, load.waiting == 0, load.leases == 0)
    numbers = (load.failed_total, load.finished_total.bit_length())  # ever rarer: twice the requests, one more plan
    return (load.phase, load.fraction, *is_at_rest, *numbers)
