"""What `proa status` shows: from objects of the API server to rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from proa_operator.names import Role

Json = Mapping[str, Any]
_TROUBLE = (("Degraded", "True"), ("RolledBack", "True"), ("Available", "False"), ("CapacityAvailable", "False"))
"""Conditions that speak for the whole service, the gravest first."""
_GOOD_IF_FALSE = ("Degraded", "RolledBack", "NodeViewUnavailable", "ScrapingUnavailable", "Progressing")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """Groups of one pool: of all revisions, or of one."""

    pool: str
    revision: str
    """Empty for all together."""
    is_target: bool
    desired: int | None
    """None for a single revision: only the target has a number, and it is the pool's."""
    replicas: int
    ready: int
    routable: int
    draining: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingRow:
    """A group that does not serve yet."""

    group: str
    phase: str
    percent: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionRow:
    """A condition; `is_good` None is Unknown."""

    type: str
    status: str
    is_good: bool | None
    reason: str
    message: str
    since: str
    """RFC 3339."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """One service."""

    namespace: str
    name: str
    phase: str
    topology: str
    revision: str
    prefill: str
    """Routable and desired groups, "1/2"; empty where there is no such pool."""
    decode: str
    is_current: bool
    """The operator has seen the latest change of the manifest."""
    message: str
    """What is worth knowing first."""
    created: str
    """RFC 3339."""
    pools: tuple[PoolRow, ...]
    starting: tuple[StartingRow, ...]
    conditions: tuple[ConditionRow, ...]


def view_of(body: Json) -> ServiceView:
    """Of a DisaggregatedService; one that no operator has seen yet has no status."""
    meta, status = body["metadata"], body.get("status") or {}
    columns = status.get("columns") or {}
    conditions = tuple(_condition(found) for found in status.get("conditions") or ())
    is_current = status.get("observedGeneration") == meta.get("generation")
    return ServiceView(
        namespace=meta["namespace"],
        name=meta["name"],
        phase="Deleting" if "deletionTimestamp" in meta else columns.get("state", "Unseen"),
        topology=status.get("topology") or body["spec"].get("topology", ""),
        revision=status.get("revision", ""),
        prefill=columns.get("prefill", ""),
        decode=columns.get("decode", ""),
        is_current=is_current,
        message=_message(status, conditions, is_current=is_current),
        created=meta.get("creationTimestamp", ""),
        pools=tuple(_pools(status)),
        starting=tuple(
            StartingRow(group=found["group"], phase=found["phase"], percent=found.get("percent"))
            for found in status.get("starting") or ()
        ),
        conditions=conditions,
    )


def _pools(status: Json) -> Iterator[PoolRow]:
    """Each pool with all its revisions, and below it one row for each of them, if there are several."""
    revisions = status.get("revisions") or ()
    for role in Role:
        pool = (status.get("pools") or {}).get(role.value)
        if pool is None:
            continue
        parts = [found for found in revisions if found.get(role.value)]
        single = parts[0]["name"] if len(parts) == 1 else ""
        yield _row(role, pool, revision=single, is_target=not parts or len(parts) > 1 or parts[0]["isTarget"])
        for found in parts if len(parts) > 1 else ():
            yield _row(role, found[role.value], revision=found["name"], is_target=found["isTarget"])


def _row(role: Role, counts: Json, *, revision: str, is_target: bool) -> PoolRow:
    return PoolRow(
        pool=role.value,
        revision=revision,
        is_target=is_target,
        desired=counts.get("desired"),
        replicas=counts.get("replicas", 0),
        ready=counts.get("ready", 0),
        routable=counts.get("routable", 0),
        draining=counts.get("draining", 0),
    )


def _condition(found: Json) -> ConditionRow:
    status = found["status"]
    is_good = None if status == "Unknown" else (status == "False") is (found["type"] in _GOOD_IF_FALSE)
    return ConditionRow(
        type=found["type"],
        status=status,
        is_good=True if found["type"] == "Progressing" and status == "True" else is_good,
        reason=found.get("reason", ""),
        message=found.get("message", ""),
        since=found.get("lastTransitionTime", ""),
    )


def _message(status: Json, conditions: tuple[ConditionRow, ...], *, is_current: bool) -> str:
    """The gravest condition in words; before that, whether anybody looks after the service at all."""
    if not status:
        return "no operator has seen it: is the chart installed, and does it watch this namespace?"
    if not is_current:
        return "the operator has not seen the latest change yet"
    holds = {(found.type, found.status): found for found in conditions}
    for key in (*_TROUBLE, ("Progressing", "True")):
        if found := holds.get(key):
            return f"{found.reason}: {found.message}"
    return ""


def age(since: str, now: float) -> str:
    """How long ago, in the largest unit that says enough: 59s, 90m, 47h, 12d. Empty for no time."""
    if not since:
        return ""
    seconds = max(0, int(now - datetime.fromisoformat(since).timestamp()))
    for unit, size, most in (("s", 1, 120), ("m", 60, 120), ("h", 3600, 48)):
        if seconds < size * most:
            return f"{seconds // size}{unit}"
    return f"{seconds // 86400}d"
