"""From actions of the planner to requests, in order; the first that fails ends the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from proa_operator import names
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.apply import Applier
from proa_operator.cluster.cache import Cache, Stored
from proa_operator.cluster.errors import ApiError, Conflict, Gone
from proa_operator.cluster.events import Events
from proa_operator.cluster.facts import PodFacts
from proa_operator.cluster.kinds import KINDS, POD, POOL, REVISION, STATEFUL_SET, Kind
from proa_operator.cluster.pods import routable_patch, ungate_patch
from proa_operator.cluster.read import available_text
from proa_operator.cluster.workers import Worker, Workers
from proa_operator.plan import actions as todo
from proa_operator.plan.actions import Action
from proa_operator.plan.state import RouteReason

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The objects that a plan was made from: what an action names is meant as it was seen then."""

    service: Stored
    children: dict[tuple[str, str], Stored]

    @classmethod
    def of(cls, service: Stored, children: Iterable[Stored]) -> Scope:
        """By kind and name."""
        return cls(service=service, children={(child.kind, child.name): child for child in children})

    def child(self, kind: Kind, name: str) -> Stored:
        """Conflict when it was not there."""
        found = self.children.get((kind.name, name))
        if found is None:
            raise Conflict(409, "NotSeen", f"{kind.name} {name} is not in the cache")
        return found

    def ref(self, kind: Kind, name: str, subresource: str = "") -> Ref:
        """In the service's namespace."""
        return Ref(kind=kind, name=name, namespace=self.service.namespace, subresource=subresource)


class Actor:
    """Raises ApiError, Unreachable and LostLease."""

    def __init__(self, api: Api, cache: Cache, workers: Workers, events: Events, clock: Callable[[], float]) -> None:
        self._api, self._cache, self._workers, self._events, self._clock = api, cache, workers, events, clock
        self.applier = Applier(api, cache)

    async def act(self, action: Action, scope: Scope) -> None:
        """Carry out one action."""
        match action:
            case todo.Apply():
                await self.applier.apply(action.objects, scope.service)
            case todo.Delete():
                await self._delete(action, scope)
            case todo.Scale():
                await self._scale(action, scope)
            case todo.Ungate() | todo.Route():
                await self._patch_pods(action, scope)
            case todo.Remember() | todo.MarkAvailable() | todo.MarkFailed() | todo.StartRevision():
                await self._mark(action, scope)
            case todo.Note():
                await self._say(action, scope)
            case todo.Probe() | todo.DrainWorker():
                self._tell(action, scope)

    async def _say(self, note: todo.Note, scope: Scope) -> None:
        """An Event that is refused holds up nothing."""
        try:
            await self._events.say(scope.service, note, self._clock())
        except ApiError as error:
            log.warning("event not written", extra={"reason": note.reason, "error": str(error)})

    def _tell(self, action: todo.Probe | todo.DrainWorker, scope: Scope) -> None:
        if isinstance(action, todo.Probe):
            prefill, decode = (worker_of(scope.child(POD, pod)) for pod in (action.prefill_pod, action.decode_pod))
            self._workers.start_probe(prefill, decode)
        else:
            self._workers.start_drain(worker_of(scope.child(POD, action.pod)), action.timeout_seconds)

    async def _delete(self, action: todo.Delete, scope: Scope) -> None:
        kind, seen = KINDS[action.kind], scope.children.get((action.kind, action.name))
        uid = action.uid or (seen.uid if seen is not None else "")
        try:
            answer = await self._api.delete(scope.ref(kind, action.name), uid=uid)
        except Gone:
            answer = {}
        if answer.get("kind") == kind.name:
            self._cache.put(kind, answer)
        elif uid:
            self._cache.remove(kind, scope.service.namespace, action.name, uid)

    async def _scale(self, action: todo.Scale, scope: Scope) -> None:
        name = names.pool_name(scope.service.name, action.role)
        body = {
            "apiVersion": POOL.api_version,
            "kind": POOL.name,
            "metadata": {"name": name, "annotations": {names.DECLARED_ANNOTATION: str(action.replicas)}},
            "spec": {"replicas": action.replicas},
        }
        ref = scope.ref(POOL, name)
        self._cache.put(POOL, await self._api.apply(ref, body, manager=names.REPLICAS_MANAGER))

    async def _patch_pods(self, action: todo.Ungate | todo.Route, scope: Scope) -> None:
        if isinstance(action, todo.Route):
            pod = scope.child(POD, action.pod)
            patch = routable_patch(pod, action, self._clock())
            ref = scope.ref(POD, pod.name, "status")
            self._cache.put(POD, await self._api.strategic_patch(ref, patch))
            return
        for name in action.pods:
            pod = scope.child(POD, name)
            answer = await self._api.json_patch(scope.ref(POD, name), ungate_patch(pod, action.avoid))
            self._cache.put(POD, answer)

    async def _mark(
        self, action: todo.Remember | todo.MarkAvailable | todo.MarkFailed | todo.StartRevision, scope: Scope
    ) -> None:
        match action:
            case todo.Remember():
                notes: dict[str, Any] = {names.MEMO_ANNOTATION: action.memo.to_text() if action.memo else None}
                await self._annotate(STATEFUL_SET, action.group, notes, scope)
            case todo.MarkAvailable():
                notes = {names.AVAILABLE_ANNOTATION: available_text(action.at, dict(action.sizes))}
                await self._annotate(REVISION, names.revision_name(scope.service.name, action.revision), notes, scope)
            case todo.MarkFailed():
                notes = {names.FAILED_ANNOTATION: action.reason}
                await self._annotate(REVISION, names.revision_name(scope.service.name, action.revision), notes, scope)
            case todo.StartRevision():
                await self._start_revision(action, scope)

    async def _start_revision(self, action: todo.StartRevision, scope: Scope) -> None:
        """One that is there gets the new number and loses the mark of its failure; its data can never change."""
        name = names.revision_name(scope.service.name, action.revision)
        if (REVISION.name, name) not in scope.children:
            await self.applier.apply(action.objects, scope.service, is_forced=True)
            return
        (wanted,) = action.objects
        notes = {**(wanted["metadata"].get("annotations") or {}), names.FAILED_ANNOTATION: None}
        await self._annotate(REVISION, name, notes, scope, revision=action.number)

    async def _annotate(self, kind: Kind, name: str, notes: dict[str, Any], scope: Scope, **fields: Any) -> None:
        patch = {"metadata": {"uid": scope.child(kind, name).uid, "annotations": notes}, **fields}
        answer = await self._api.merge_patch(scope.ref(kind, name), patch, manager=names.MARKS_MANAGER)
        self._cache.put(kind, answer)


def worker_of(pod: Stored) -> Worker:
    """How to reach the worker in a pod."""
    assert isinstance(pod.facts, PodFacts)
    return Worker(
        uid=pod.uid,
        name=pod.name,
        ip=pod.facts.ip,
        service=(pod.namespace, pod.service),
        loaded_since=pod.facts.loaded_since,
        is_cordoned=pod.facts.route_reason == RouteReason.CORDONED,
    )
