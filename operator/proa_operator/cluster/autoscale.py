"""The autoscaler of the operator: a round of decisions for all services, from one reading of Prometheus."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from proa_operator import names
from proa_operator.api.autoscaling import Mode
from proa_operator.api.service import ServiceSpec
from proa_operator.autoscale import gauges
from proa_operator.autoscale.act import Reason, Targets
from proa_operator.autoscale.aliases import engine_of
from proa_operator.autoscale.config import Config, Stance, config_from
from proa_operator.autoscale.decide import Decision, decide
from proa_operator.autoscale.explain import describe
from proa_operator.autoscale.memory import Memory, from_text, to_text
from proa_operator.autoscale.readings import MOST_SHORT_ROUNDS, Readings, is_short, readings_of, signals_of
from proa_operator.autoscale.signals import Signals, Spans
from proa_operator.autoscale.source import Source, Unanswered
from proa_operator.cluster.autoscale_profiles import Profiles
from proa_operator.cluster.autoscale_view import PoolView, pool_views, pools_of
from proa_operator.cluster.autoscale_write import Writer, conditions_of, owner_of, status_part
from proa_operator.cluster.cache import Cache, ServiceKey, Stored
from proa_operator.cluster.errors import ApiError, ClusterError
from proa_operator.cluster.events import Events
from proa_operator.cluster.kinds import SERVICE
from proa_operator.cluster.read import Reader
from proa_operator.errors import UserError
from proa_operator.names import Role
from proa_operator.plan.actions import EventType, Note
from proa_operator.render import RenderError

log = logging.getLogger(__name__)
NO_PROMETHEUS = "no Prometheus: set PROA_PROMETHEUS_URL (value metrics.prometheus.url of the chart)"
_TICK_SECONDS = 1.0
_SHORTEST_ROUND = 5.0
_PROFILES_SECONDS = 60.0
_REMEMBER_SECONDS = 60.0
_FORGOTTEN_AFTER_PERIODS = 4
_MOVES = {Reason.UP: "ScaledUp", Reason.DOWN: "ScaledDown", Reason.WAKE: "WokenUp", Reason.SLEEP: "PutToSleep"}


@dataclass(slots=True, kw_only=True)
class Known:
    """Of one service between two rounds; all of it can be found again."""

    memory: Memory
    due: float = 0.0
    remembered_at: float = 0.0
    short_rounds: int = 0
    """Rounds in a row in which a group or gateway was not scraped."""


class Autoscaler:
    """`source` None: every scaled service is told that there is no Prometheus. `spans`: of what is read."""

    def __init__(
        self,
        *,
        cache: Cache,
        source: Source | None,
        spans: Spans,
        profiles: Profiles,
        writer: Writer,
        events: Events,
        may_act: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._cache, self._source, self._spans, self._profiles = cache, source, spans, profiles
        self._writer, self._events, self._may_act, self._clock = writer, events, may_act, clock
        self._known: dict[ServiceKey, Known] = {}
        self._reader = Reader()
        self._profiles_at = self._round_at = float("-inf")

    async def run(self) -> None:
        """Until it is cancelled. Followers forget: the next leader reads the annotations."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._may_act():
                await self.round(self._clock())
            else:
                self._forget(set(self._known))

    async def round(self, now: float) -> None:
        """Decide for every service that is due; Prometheus is asked once."""
        await self._read_profiles(now)
        scaled = dict(self._scaled())
        self._forget(self._known.keys() - scaled.keys())
        due = [key for key in scaled if key not in self._known or now >= self._known[key].due]
        if not due or now - self._round_at < _SHORTEST_ROUND:
            return
        self._round_at = now
        readings, trouble = await self._readings()
        for key in due:
            await self._one(key, *scaled[key], readings.get(key, Readings()), trouble, now)
            await asyncio.sleep(0)  # a round of a thousand services takes a second: others want to run in it

    def _forget(self, keys: set[ServiceKey]) -> None:
        for key in keys:
            del self._known[key]
            gauges.forget(key)

    def _scaled(self) -> list[tuple[ServiceKey, tuple[Stored, ServiceSpec]]]:
        found = []
        for stored in self._cache.all(SERVICE):
            try:
                spec = self._reader.service(stored).spec
            except RenderError:
                continue  # the reconciler says so in the status
            if spec.autoscaling.mode is not Mode.DISABLED:
                found.append(((stored.namespace, stored.name), (stored, spec)))
        return found

    async def _readings(self) -> tuple[dict[ServiceKey, Readings], str]:
        if self._source is None:
            return {}, NO_PROMETHEUS
        try:
            return readings_of(await self._source.read()), ""
        except Unanswered as error:
            log.warning("no metrics", extra={"error": str(error)})
            return {}, str(error)

    async def _read_profiles(self, now: float) -> None:
        if now - self._profiles_at < _PROFILES_SECONDS:
            return
        self._profiles_at = now
        try:
            await self._profiles.read()
        except ClusterError as error:
            log.warning("profiles not read", extra={"error": str(error)})

    async def _one(
        self, key: ServiceKey, service: Stored, spec: ServiceSpec, readings: Readings, trouble: str, now: float
    ) -> None:
        """A service whose writes fail is tried again at its next turn, and holds up nobody."""
        views = pool_views(self._cache.children(key), service)
        if Role.DECODE not in views:
            return
        known = self._known.get(key) or self._recall(key, views[Role.DECODE], spec, now)
        known.due = now + spec.autoscaling.behavior.period_seconds - _TICK_SECONDS / 2
        try:
            await self._mark_foreign(views, now)
            await self._decide(key, service, spec, readings, trouble, now)
        except ClusterError as error:
            log.warning("decision not carried out", extra={"service": "/".join(key), "error": str(error)})
        except (ArithmeticError, LookupError, ValueError):  # a defect: it must not stop the other services
            log.exception("decision failed, the service stays as it is", extra={"service": "/".join(key)})

    async def _decide(
        self, key: ServiceKey, service: Stored, spec: ServiceSpec, readings: Readings, trouble: str, now: float
    ) -> None:
        known, children = self._known[key], self._cache.children(key)
        views, config = pool_views(children, service), self._config(service, spec)
        pools = pools_of(service, views, children, now)
        known.short_rounds = known.short_rounds + 1 if is_short(readings, pools) else 0
        pools = replace(pools, engine=engine_of(spec), is_late=known.short_rounds > MOST_SHORT_ROUNDS)
        signals = signals_of(readings, pools, config, now, trouble=trouble)
        started = time.perf_counter()
        decision = decide(signals, known.memory, config)
        gauges.export(key, signals, config, decision, time.perf_counter() - started)
        known.memory = decision.memory
        await self._carry_out(views, signals, decision, config, known)
        await self._tell(key, signals, decision, config)

    def _config(self, service: Stored, spec: ServiceSpec) -> Config:
        prefill = self._profiles.of(service.namespace, spec, spec.pools.prefill)
        decode = self._profiles.of(service.namespace, spec, spec.pools.decode)
        return config_from(service.name, spec, prefill or decode, decode or prefill, spans=self._spans)

    async def _carry_out(
        self, views: dict[Role, PoolView], signals: Signals, decision: Decision, config: Config, known: Known
    ) -> None:
        """The memory goes with the decode pool's number, or by itself when the windows hold something to lose."""
        targets = {Role.PREFILL: decision.targets.prefill, Role.DECODE: decision.targets.decode}
        is_active = config.policy.stance is Stance.ACTIVE
        moves = {role for role, view in views.items() if is_active and targets[role] != view.replicas}
        is_due = signals.now - known.remembered_at >= _REMEMBER_SECONDS and _is_worth_keeping(decision)
        for role, view in views.items():
            number = targets[role] if role in moves else view.replicas
            notes = {names.AUTOSCALED_ANNOTATION: str(number)} if view.facts.autoscaled != number else {}
            if role is Role.DECODE and (moves or notes or is_due):
                notes[names.MEMORY_ANNOTATION] = to_text(known.memory)
                known.remembered_at = signals.now
            if notes:
                await self._writer.pool(view, notes, number if role in moves else None)

    async def _tell(self, key: ServiceKey, signals: Signals, decision: Decision, config: Config) -> None:
        service = self._cache.get(SERVICE, *key)
        if service is None:
            return
        reason, text = decision.outcome.reason, describe(signals, decision)
        present = Targets(prefill=signals.prefill.desired, decode=signals.decode.desired)
        is_move = decision.targets != present
        if is_move or log.isEnabledFor(logging.DEBUG):
            extra = {"service": "/".join(key), "decision": json.dumps(decision.record, separators=(",", ":"))}
            log.log(logging.INFO if is_move else logging.DEBUG, "autoscaler decision", extra=extra)
        if is_move:
            verb = _MOVES.get(reason, "Scaled") if config.policy.stance is Stance.ACTIVE else "ScalingAdvised"
            await self._say(service, Note(type=EventType.NORMAL, reason=verb, message=text), signals.now)
        elif signals.missing:
            await self._say(service, Note(type=EventType.WARNING, reason="MetricsMissing", message=text), signals.now)
        owner = owner_of(pool_views(self._cache.children(key), service), signals.now, config)
        said = (*conditions_of(signals, decision), owner)
        await self._writer.status(service, status_part(decision, config), said, signals.now)

    async def _say(self, service: Stored, note: Note, now: float) -> None:
        try:
            await self._events.say(service, note, now)
        except ApiError as error:
            log.warning("event not written", extra={"reason": note.reason, "error": str(error)})

    async def _mark_foreign(self, views: dict[Role, PoolView], now: float) -> None:
        """Somebody else's number is theirs for a while; the decision reads the mark from the cache."""
        for view in views.values():
            if view.is_foreign:
                await self._writer.pool(
                    view, {names.AUTOSCALED_ANNOTATION: str(view.replicas), names.MANUAL_ANNOTATION: str(now)}
                )

    def _recall(self, key: ServiceKey, decode: PoolView, spec: ServiceSpec, now: float) -> Known:
        """The memory of the annotation, without its windows when it is old."""
        known = Known(memory=recalled(decode.facts.memory, now, spec.autoscaling.behavior.period_seconds))
        self._known[key] = known
        return known


def recalled(text: str, now: float, period_seconds: int) -> Memory:
    """An unbroken memory goes on; from an old one the model and the times of the steps are kept."""
    try:
        memory = from_text(text) if text else Memory()
    except UserError as error:
        log.warning("the autoscaler's memory is lost, it holds for one window", extra={"error": str(error)})
        return Memory()
    last = memory.wishes[-1].at if memory.wishes else float("-inf")
    if now - last <= _FORGOTTEN_AFTER_PERIODS * period_seconds + _REMEMBER_SECONDS:
        return memory
    return replace(memory, since=None, wishes=(), rates=())


def _is_worth_keeping(decision: Decision) -> bool:
    """Windows in which all wishes are what there is anyway may be lost."""
    return any(
        (wish.prefill, wish.decode) != (decision.targets.prefill, decision.targets.decode)
        for wish in decision.memory.wishes
    )
