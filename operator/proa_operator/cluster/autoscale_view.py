"""What the cache knows of a service, for a decision. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from proa_operator.autoscale.readings import Pools
from proa_operator.autoscale.signals import PoolSignals
from proa_operator.cluster.cache import Stored
from proa_operator.cluster.facts import GatewayFacts, PoolFacts, ServiceFacts
from proa_operator.names import Role

ABSENT = PoolSignals(desired=0, ready=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """A WorkerPool with its facts."""

    stored: Stored
    facts: PoolFacts

    @property
    def replicas(self) -> int:
        """Groups that are asked for."""
        return self.facts.replicas or 0

    @property
    def is_foreign(self) -> bool:
        """Somebody else has written `replicas` since the autoscaler did."""
        return self.facts.autoscaled is not None and self.facts.autoscaled != self.replicas


def pool_views(children: Iterable[Stored], service: Stored) -> dict[Role, PoolView]:
    """The pools of a service that have a number."""
    own = (child for child in children if child.owner == service.uid and isinstance(child.facts, PoolFacts))
    views = [PoolView(stored=child, facts=child.facts) for child in own if isinstance(child.facts, PoolFacts)]
    return {Role(view.facts.role): view for view in views if view.facts.replicas is not None}


def pools_of(service: Stored, views: Mapping[Role, PoolView], children: Iterable[Stored], now: float) -> Pools:
    """Sizes from the pools, what serves from the status that the planner wrote."""
    assert isinstance(service.facts, ServiceFacts)
    status = service.facts.body.get("status") or {}
    has_room = _has_room(status)
    gateways = [child.facts for child in children if isinstance(child.facts, GatewayFacts)]
    return Pools(
        prefill=_pool(views.get(Role.PREFILL), status, Role.PREFILL, now, has_room=has_room),
        decode=_pool(views.get(Role.DECODE), status, Role.DECODE, now, has_room=has_room),
        num_gateways=sum(gateway.num_ready for gateway in gateways),
        is_rolling=len(status.get("revisions") or ()) > 1 or status.get("rollout") is not None,
    )


def _pool(view: PoolView | None, status: Mapping[str, Any], role: Role, now: float, *, has_room: bool) -> PoolSignals:
    if view is None:
        return ABSENT
    counts = (status.get("pools") or {}).get(role.value) or {}
    ready = int(counts.get("routable", 0))
    return PoolSignals(
        desired=view.replicas,
        ready=ready,
        starting=max(0, view.replicas - ready),
        draining=int(counts.get("draining", 0)),
        placeable=None if has_room else 0,
        manual_at=now if view.facts.scaler else view.facts.manual_at,  # a controller would write again
    )


def _has_room(status: Mapping[str, Any]) -> bool:
    """While a group finds no node, more groups would find none either."""
    return all(
        found.get("status") != "False"
        for found in status.get("conditions") or ()
        if found.get("type") == "CapacityAvailable"
    )
