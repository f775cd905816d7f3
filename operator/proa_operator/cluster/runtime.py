"""All parts of one operator process, put together, started and ended in order."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from prometheus_client import REGISTRY

from proa_operator import metrics
from proa_operator.cluster.account import owner_of
from proa_operator.cluster.act import Actor
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.autoscale_parts import autoscaler_of
from proa_operator.cluster.cache import Cache, ServiceKey
from proa_operator.cluster.connect import Connection, connection
from proa_operator.cluster.discover import Discovered, discover
from proa_operator.cluster.downloads import Downloads
from proa_operator.cluster.election import Election
from proa_operator.cluster.errors import ApiError, Busy, ClusterError, Gone, Unreachable
from proa_operator.cluster.events import Events
from proa_operator.cluster.kinds import EVENT, LEASE, SERVICE, Kind, cached_kinds
from proa_operator.cluster.pod_refusals import PodRefusals
from proa_operator.cluster.queue import Queue
from proa_operator.cluster.reconcile import Planner, Reconciler
from proa_operator.cluster.serve import serve_metrics, serve_probes
from proa_operator.cluster.service_metrics import ServiceMetrics
from proa_operator.cluster.status import StatusWriter
from proa_operator.cluster.sync import Sync
from proa_operator.cluster.ticker import Tempo, Ticker
from proa_operator.cluster.watch import Watch
from proa_operator.cluster.worker_admin import WorkerAdmin
from proa_operator.cluster.workers import Workers
from proa_operator.errors import ServeError
from proa_operator.render import RenderSettings
from proa_operator.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
PlannerFor = Callable[[RenderSettings], Planner]
START_SECONDS = 60.0
_STUCK_SECONDS = 120.0
_SPREAD_SECONDS = 60.0
_REST_SECONDS = 0.25


class Runtime:
    """`on_failure` is called once, when a part has ended that should not; the process has to end then."""

    def __init__(
        self, settings: Settings, planner_for: PlannerFor, on_failure: Callable[[], None], tempo: Tempo | None = None
    ) -> None:
        self._settings, self._planner_for, self._on_failure = settings, planner_for, on_failure
        self._tempo = tempo or Tempo()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._found = Discovered()
        self._reign = 0
        """Number of the reign whose doubts are known; nothing is planned before."""
        self._lately: dict[ServiceKey, None] = {}
        """Services with news while another replica leads, the latest last."""
        self.cache = Cache(self._on_news)
        self.pod_refusals = PodRefusals(self.cache)
        self.downloads = Downloads(self.cache, lambda key: self._on_news({key}))
        self.api = Api(Connection())
        lease = Ref(kind=LEASE, name=settings.lease_name, namespace=settings.operator_namespace)
        owners = owner_of(connection(os.environ).token)
        self.election = Election(self.api, lease, settings.pod_name, on_change=self._on_leading, owners=owners)
        self.api.may_write = self.election.seconds_to_write
        self.workers = Workers(WorkerAdmin(), time.time, lambda key: self._on_news({key}))
        self.queue = Queue(self._reconcile)

    async def start(self) -> None:
        """Returns when everything that exists has been read. ServeError when the cluster does not let it."""
        self._found = await _persistently(self._discover)
        self._sync = Sync(self.api, self.cache, self._kinds(), self._settings.namespaces)
        try:
            await _persistently(self._sync.run)
        except Gone as error:
            raise ServeError(f"the cluster lacks a kind: install charts/proa-crds first ({error.message})") from None
        except ApiError as error:
            raise ServeError(f"the operator's rights do not suffice: {error.message}") from None
        actor = Actor(self.api, self.cache, self.workers, Events(self.api), time.time)
        self._reconciler = Reconciler(
            cache=self.cache,
            workers=self.workers,
            actor=actor,
            statuses=StatusWriter(self.api, self.cache),
            election=self.election,
            planner=self._planner_for(self._render_settings()),
            clock=time.time,
            wake_after=self.queue.add_after,
            sees_nodes=self._found.sees_nodes,
            downloads=self.downloads,
            pod_refusals=self.pod_refusals,
            confirm=lambda key: self._sync.confirm(key),
            read_service=lambda key: self._sync.read_service(key),
        )
        self._ticker = Ticker(
            self.cache,
            self.workers,
            downloads=self.downloads,
            resync=self._resync,
            queue_age=self.queue.age,
            is_leader=lambda: self.election.is_leader,
            tempo=self._tempo,
        )
        await serve_probes(self._stack, self._settings.health_port, alive=self._ails, ready=lambda: "")
        service_metrics = ServiceMetrics(self.cache, lambda: self.election.is_leader, time.time)
        REGISTRY.register(service_metrics)
        self._stack.callback(REGISTRY.unregister, service_metrics)
        await serve_metrics(self._stack, self._settings.metrics_port)
        autoscaler = autoscaler_of(
            self._settings, self.api, self.cache, Events(self.api), may_act=self._is_reigning, stack=self._stack
        )
        endless = (self.queue.run(), self._ticker.run(), self.election.run(), autoscaler.run())
        for work in (*endless, *self._watches()):
            self._spawn(work)

    def _watches(self) -> list[Coroutine[Any, Any, None]]:
        """Of all kinds but those that come and go, and the one that kopf watches."""
        kinds = [kind for kind in self._kinds() if not kind.is_optional and kind is not SERVICE]
        parts = self._sync.parts(*kinds)
        return [Watch(self.api, self._sync, kind, namespace, self.on_event).run() for kind, namespace in parts]

    async def stop(self) -> None:
        """Ends all parts, and gives the lease back when nothing is written any more. May be called again."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.workers.close()
        await self._stack.aclose()
        await self.api.close()

    def on_event(self, kind: Kind, event: str, body: dict[str, Any]) -> None:
        """News from a watch stream."""
        metrics.WATCH_EVENTS.labels(kind=kind.name).inc()
        meta = body["metadata"]
        if kind is EVENT:
            if event != "DELETED" and (key := self.pod_refusals.note(body)):
                self._on_news({key})
        elif event == "DELETED":
            version = int(meta["resourceVersion"])
            self.cache.remove(kind, meta.get("namespace", ""), meta["name"], meta["uid"], version)
        else:
            self.cache.put(kind, body)

    def _on_news(self, concerned: set[ServiceKey]) -> None:
        if self.election.is_leader:
            self.queue.add(*concerned)
            return
        for key in concerned:
            self._lately.pop(key, None)
            if self.cache.get(SERVICE, *key) is not None:
                self._lately[key] = None

    @property
    def sees_events(self) -> bool:
        """Whether this operator may see Events."""
        return self._found.sees_events

    async def _discover(self) -> Discovered:
        return await discover(self.api, self._settings.namespaces)

    def _kinds(self) -> tuple[Kind, ...]:
        kinds = cached_kinds(has_nodes=self._found.sees_nodes)
        return tuple(kind for kind in kinds if not kind.is_optional or kind.name in self._found.optional_kinds)

    def _render_settings(self) -> RenderSettings:
        known = self._found.optional_kinds
        return self._settings.render(has_pod_monitors="PodMonitor" in known, has_http_routes="HTTPRoute" in known)

    def _is_reigning(self) -> bool:
        return self.election.is_leader and self._reign == self.election.transitions

    async def _reconcile(self, key: ServiceKey, due: float) -> None:
        if self._is_reigning():
            await self._reconciler.reconcile(key, due)
        if self.cache.get(SERVICE, *key) is None:
            self.queue.forget(key)

    def _on_leading(self, is_leader: bool) -> None:
        if is_leader:
            self._spawn(self._take_over(), is_endless=False)

    async def _take_over(self) -> None:
        """Plan every service, first those that something happened to while nobody led.

        The watches may be behind what the last leader wrote: a service that it knew is read again before the first
        write to it. Those that the list has not were made in this reign, and nobody else has written to them.
        """
        reign = self.election.transitions
        await _persistently(lambda: self._sync.read_all(SERVICE))
        if reign != self.election.transitions:  # it ended meanwhile; the next one takes over by itself
            return
        services = self.cache.services()
        self._reconciler.doubt(services)
        self._reign = reign
        lately, self._lately = reversed(self._lately), {}
        self.queue.add(*lately, *services)
        log.info("took over", extra={"services": len(services)})

    async def _resync(self) -> None:
        try:
            found = await self._discover()
            if found.optional_kinds != self._found.optional_kinds:
                self._found = found
                self._sync = Sync(self.api, self.cache, self._kinds(), self._settings.namespaces)
                self._reconciler.planner = self._planner_for(self._render_settings())
            await self._sync.run(_REST_SECONDS)
        except ClusterError as error:
            log.warning("lists not read", extra={"error": str(error)})
            return
        if self.election.is_leader:
            self._reconciler.resync(self.cache.services(), _SPREAD_SECONDS)

    def _ails(self) -> str:
        """What is wrong with this process, for the kubelet to restart it."""
        age = self.queue.age()
        if age > _STUCK_SECONDS and self.election.is_leader:
            return f"a service waits for {age:.0f} s"
        beat = asyncio.get_running_loop().time() - self._ticker.beat
        return f"no tick for {beat:.0f} s" if self._ticker.beat and beat > _STUCK_SECONDS else ""

    def _spawn(self, work: Coroutine[Any, Any, None], *, is_endless: bool = True) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended if is_endless else self._ended_early)

    def _ended_early(self, task: asyncio.Task[None]) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
        if not task.cancelled() and task.exception() is not None:
            self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A defect: better to start again than to go on with a part missing."""
        if task.cancelled():
            return
        log.error("a part of the operator has ended", exc_info=task.exception())
        self._on_failure()


async def _persistently(ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Until the API server answers. ServeError when it does not for a minute; a refusal is raised as it is."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return await ask()
        except (Unreachable, Busy) as error:
            if time.monotonic() > deadline:
                raise ServeError(f"the API server does not answer: {error}") from None
            log.warning("no answer from the API server", extra={"error": str(error)})
            await asyncio.sleep(2.0)
