"""One service: observe, plan, act, write the status. Level-triggered: nothing is handed from one run to the next."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol

from proa_operator import metrics
from proa_operator.cluster.act import Actor, Scope
from proa_operator.cluster.cache import Cache, ServiceKey, Stored
from proa_operator.cluster.downloads import Downloads
from proa_operator.cluster.facts import ServiceFacts
from proa_operator.cluster.kinds import SERVICE
from proa_operator.cluster.observe import Surroundings, observe
from proa_operator.cluster.pod_refusals import PodRefusals
from proa_operator.cluster.read import Reader
from proa_operator.cluster.status import StatusWriter, refused_status
from proa_operator.cluster.workers import Workers
from proa_operator.plan.actions import Action, Plan, Ungate, takes_away
from proa_operator.plan.state import Observed
from proa_operator.render import RenderError

log = logging.getLogger(__name__)

Planner = Callable[[Observed], Plan]


class Reign(Protocol):
    """What a reconciliation asks of the election."""

    @property
    def transitions(self) -> int: ...
    def check(self, reign: int | None = None) -> None: ...


class Reconciler:
    """`planner` may be replaced when the cluster learns a new kind."""

    def __init__(
        self,
        *,
        cache: Cache,
        workers: Workers,
        actor: Actor,
        statuses: StatusWriter,
        election: Reign,
        planner: Planner,
        clock: Callable[[], float],
        wake_after: Callable[[ServiceKey, float], None],
        sees_nodes: bool,
        downloads: Downloads,
        pod_refusals: PodRefusals,
        confirm: Callable[[ServiceKey], Awaitable[None]],
        read_service: Callable[[ServiceKey], Awaitable[None]],
    ) -> None:
        self._cache, self._workers, self._actor, self._statuses = cache, workers, actor, statuses
        self._election, self.planner, self._clock, self._wake_after = election, planner, clock, wake_after
        self._sees_nodes, self._downloads, self._pod_refusals = sees_nodes, downloads, pod_refusals
        self._confirm, self._read_service = confirm, read_service
        self._reader = Reader()
        self._doubted: set[ServiceKey] = set()
        self._resyncs: set[ServiceKey] = set()

    def doubt(self, keys: Iterable[ServiceKey]) -> None:
        """Each of these is read from the API server once before the first write to it."""
        self._doubted = set(keys)

    def resync(self, keys: list[ServiceKey], within_seconds: float) -> None:
        """Each of these once asks for all of its objects to be looked at, spread over some time."""
        for key in keys:
            self._resyncs.add(key)
            self._wake_after(key, random.uniform(0, within_seconds))

    async def reconcile(self, key: ServiceKey, due: float) -> None:
        """Raises ClusterError for what is worth another try; `due` is since when it was, on the loop's clock."""
        service = self._cache.get(SERVICE, *key)
        if service is None:
            self._actor.applier.forget(key)
            self._resyncs.discard(key)
            self._doubted.discard(key)
            self._cache.forget(key)
            return
        assert isinstance(service.facts, ServiceFacts)
        if service.facts.is_deleting:
            return
        reign = self._election.transitions
        self._election.check(reign)
        scope = Scope.of(service, self._cache.children(key))
        plan = self._plan(key, scope)
        if key in self._doubted and (plan.actions or self._statuses.is_news(scope, plan.status)):
            await self._confirm(key)
            self._doubted.discard(key)
            await self.reconcile(key, due)
            return
        nodes = self._cache.nodes
        nodes.promise(
            key, frozenset(pod for action in plan.actions if isinstance(action, Ungate) for pod in action.pods)
        )
        try:
            await self._carry_out(plan, scope, reign, due)
        finally:
            nodes.promise(key, frozenset())

    def _plan(self, key: ServiceKey, scope: Scope) -> Plan:
        started = asyncio.get_running_loop().time()
        around = self._surroundings(key, scope)
        try:
            plan = self.planner(observe(scope.service, scope.children.values(), around, self._reader))
        except RenderError as error:
            status = refused_status(scope.service, str(error), _stamp(around.now))
            return Plan(actions=(), status=status, wake_at=None)
        metrics.PLAN_SECONDS.observe(asyncio.get_running_loop().time() - started)
        return plan

    async def _carry_out(self, plan: Plan, scope: Scope, reign: int, due: float) -> None:
        """The status tells what was observed, so it is written also when an action fails.

        An outdated plan ends before its next action, and the status is the next plan's to write.
        """
        key = (scope.service.namespace, scope.service.name)
        num_news, is_outdated = self._cache.num_news(key), False
        try:
            for number, action in enumerate(plan.actions):
                if is_outdated := await self._is_outdated(action, scope, num_news):
                    self._wake_after(key, 0.0)
                    return
                self._election.check(reign)
                log.debug("acts", extra={"namespace": key[0], "service": key[1], "action": repr(action)})
                await self._actor.act(action, scope)
                if number == 0:
                    metrics.EVENT_TO_WRITE_SECONDS.observe(asyncio.get_running_loop().time() - due)
            self._resyncs.discard(key)
        finally:
            if not is_outdated:
                self._election.check(reign)
                await self._statuses.write(scope, plan.status)
        if plan.wake_at is not None:
            self._wake_after(key, plan.wake_at - self._clock())

    async def _is_outdated(self, action: Action, scope: Scope, num_news: int) -> bool:
        """Another spec asks for another plan.

        What takes a group away counts on the spec, of which the watch may be late: that is read again. And it counts
        on all other groups, so it is also planned anew when anything else has happened since, also during that read.
        """
        key = (scope.service.namespace, scope.service.name)
        if takes_away(action):
            await self._read_service(key)
            if self._cache.num_news(key) != num_news:
                return True
        service = self._cache.get(SERVICE, *key)
        return service is None or (service.uid, _generation(service)) != (scope.service.uid, _generation(scope.service))

    def _surroundings(self, key: ServiceKey, scope: Scope) -> Surroundings:
        nodes = self._cache.nodes
        return Surroundings(
            now=self._clock(),
            nodes=nodes.states if self._sees_nodes else None,
            unbound_pods=nodes.unbound_besides(key),
            loads=self._workers.loads,
            probes=self._workers.probes,
            refusals=self._actor.applier.refusals(key) + self._pod_refusals.of(scope.children.values()),
            progress=self._downloads.of(key),
            is_resync=key in self._resyncs or any(map(self._actor.applier.is_touched, scope.children.values())),
        )


def _generation(service: Stored) -> int:
    assert isinstance(service.facts, ServiceFacts)
    return int(service.facts.body["metadata"]["generation"])


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
