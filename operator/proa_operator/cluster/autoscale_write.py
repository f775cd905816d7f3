"""Writes of the autoscaler: numbers and marks of the pools, and its part of the service's status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from proa_operator import names
from proa_operator.autoscale.config import Config, Stance
from proa_operator.autoscale.decide import Decision
from proa_operator.autoscale.signals import Signals
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.autoscale_view import PoolView
from proa_operator.cluster.cache import Cache, Stored
from proa_operator.cluster.facts import ServiceFacts
from proa_operator.cluster.kinds import POOL, SERVICE
from proa_operator.names import Role

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A condition without its times."""

    type: str
    is_true: bool
    reason: str
    message: str


class Writer:
    """Raises ApiError, Unreachable and LostLease. Each write holds for the version that the decision saw."""

    def __init__(self, api: Api, cache: Cache) -> None:
        self._api, self._cache = api, cache

    async def pool(self, view: PoolView, notes: Mapping[str, str | None], replicas: int | None = None) -> None:
        """Marks of a pool and, where it is given, its number; Conflict when somebody else was faster."""
        stored = view.stored
        meta: Json = {"uid": stored.uid, "resourceVersion": str(stored.version), "annotations": dict(notes)}
        patch: Json = {"metadata": meta}
        if replicas is not None:
            patch["spec"] = {"replicas": replicas}
        ref = Ref(kind=POOL, name=stored.name, namespace=stored.namespace)
        self._cache.put(POOL, await self._api.merge_patch(ref, patch, manager=names.AUTOSCALER_MANAGER))

    async def status(self, service: Stored, part: Json, said: tuple[Said, ...], now: float) -> None:
        """Nothing is written when it says nothing new."""
        assert isinstance(service.facts, ServiceFacts)
        body = service.facts.body
        present = body.get("status") or {}
        wanted = {**present, "autoscaler": part, "conditions": _merged(present, said, body["metadata"], now)}
        if wanted == present:
            return
        patch: list[Json] = [
            {"op": "test", "path": "/metadata/uid", "value": service.uid},
            {"op": "test", "path": "/metadata/resourceVersion", "value": str(service.version)},
            {"op": "add", "path": "/status", "value": wanted},
        ]
        ref = Ref(kind=SERVICE, name=service.name, namespace=service.namespace, subresource="status")
        self._cache.put(SERVICE, await self._api.json_patch(ref, patch, manager=names.AUTOSCALER_MANAGER))


def conditions_of(signals: Signals, decision: Decision) -> tuple[Said, ...]:
    """MetricsFresh, and while they are, RatioFeasible."""
    if signals.missing:
        text = f"the autoscaler holds, for it does not see: {'; '.join(signals.missing)}"
        return (Said(type="MetricsFresh", is_true=False, reason="MetricsMissing", message=text[:1000]),)
    fresh = Said(type="MetricsFresh", is_true=True, reason="Scraped", message="all signals are there")
    binding = decision.outcome.binding
    if binding is None:
        feasible = Said(type="RatioFeasible", is_true=True, reason="Feasible", message="the need fits all bounds")
    else:
        text = f"spec.{binding} keeps the pools from what the load needs: raise it, or lower the load"
        text = text if binding != "placement" else "no nodes are free for what the load needs: add nodes"
        feasible = Said(type="RatioFeasible", is_true=False, reason="Bound", message=text)
    return fresh, feasible


def owner_of(views: Mapping[Role, PoolView], now: float, config: Config) -> Said:
    """PoolsOwned: whether the autoscaler sizes the pools, or who does."""
    if config.policy.stance is Stance.ADVISORY:
        why = "spec.autoscaling.mode is Advisory" if config.has_profile else "no PerformanceProfile fits the service"
        return Said(type="PoolsOwned", is_true=False, reason="Advisory", message=f"{why}: no number is changed")
    others = [text for role, view in views.items() if (text := _other(role, view, now, config.policy.pin_seconds))]
    if not others:
        return Said(type="PoolsOwned", is_true=True, reason="Autoscaler", message="the autoscaler sizes both pools")
    is_scaled = any(view.facts.scaler for view in views.values())
    reason = "OwnedByController" if is_scaled else "SetByHand"
    return Said(type="PoolsOwned", is_true=False, reason=reason, message="; ".join(others))


def _other(role: Role, view: PoolView, now: float, pin_seconds: float) -> str:
    """Empty while the autoscaler owns the pool."""
    facts, name = view.facts, view.stored.name
    if facts.scaler:
        fix = f"delete its HorizontalPodAutoscaler or ScaledObject, then kubectl scale wpool {name} to another number"
        return f"{role.value} is sized by {facts.scaler}: to give it back, {fix}"
    if facts.manual_at is not None and now - facts.manual_at < pin_seconds:
        at = datetime.fromtimestamp(facts.manual_at, UTC).strftime("%H:%M:%SZ")
        return f"{role.value} was set by hand at {at} and is left alone for {pin_seconds:g} s"
    return ""


def status_part(decision: Decision, config: Config) -> Json:
    """status.autoscaler: no number that moves with each decision."""
    outcome = decision.outcome
    return {
        "mode": config.policy.stance.value,
        "prefill": decision.targets.prefill,
        "decode": decision.targets.decode,
        "reason": outcome.reason.value,
        "binding": outcome.binding or "",
        "hasProfile": config.has_profile,
    }


def _merged(present: Json, said: tuple[Said, ...], meta: Mapping[str, Any], now: float) -> list[Json]:
    """In their places; new ones at the end. The time of a condition is that of its last change."""
    found = {old["type"]: old for old in present.get("conditions") or ()}
    for one in said:
        status = "True" if one.is_true else "False"
        old = found.get(one.type, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        found[one.type] = {
            "type": one.type,
            "status": status,
            "reason": one.reason,
            "message": one.message,
            "observedGeneration": meta["generation"],
            "lastTransitionTime": since or datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    return list(found.values())
