"""From the change of an object to the operator's first write to a child of the same service, by the audit log.

Both times are of one clock, the API server's. The event is there when the server has answered the change; the write
is there when the server has received it. `outer` is the longest span that one could mean: from the server's receipt of
the change to its answer to the write.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.k8s.audit import Request
from bench.k8s.changes import Change, Kind
from bench.k8s.client import AGENT

OPERATOR = "proa-operator"
_NO_CHILDREN = ("events", "leases", "disaggregatedservices", "disaggregatedservices/status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one change, in milliseconds; a write that was received before the change's answer counts as 0."""

    kind: Kind
    ms: float
    outer_ms: float
    write: str
    """Verb and resource of the first write."""


def latencies(changes: Sequence[Change], requests: Sequence[Request]) -> tuple[list[Latency], list[Change]]:
    """Of the answered changes, and those without an answer."""
    made = {_key(request): request for request in requests if request.agent == AGENT and request.code < 300}
    writes: dict[str, list[Request]] = {}
    for request in child_writes(requests):
        writes.setdefault(f"{request.namespace}/{request.name.partition('-')[0]}", []).append(request)
    found, missing = [], []
    for change in changes:
        own = writes.get(f"{change.namespace}/{change.service}", [])
        latency = _latency(change, made.get(_key(change)), own)
        if latency is None:
            missing.append(change)
        else:
            found.append(latency)
    return found, missing


def child_writes(requests: Iterable[Request]) -> list[Request]:
    """Of the operator, to objects that belong to a service."""
    return [
        request
        for request in requests
        if request.agent.startswith(OPERATOR) and request.is_write and request.resource not in _NO_CHILDREN
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed. ValueError for no values."""
    if not values:
        raise ValueError("no values")
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def _latency(change: Change, made: Request | None, writes: Sequence[Request]) -> Latency | None:
    later = [request for request in writes if made is not None and request.received >= made.received]
    if made is None or not later:
        return None
    first = min(later, key=lambda request: request.received)
    return Latency(
        kind=change.kind,
        ms=max(0.0, (first.received - made.answered) * 1000),
        outer_ms=(first.answered - made.received) * 1000,
        write=f"{first.verb} {first.resource}",
    )


def _key(what: Request | Change) -> tuple[str, str, str, str]:
    return (what.verb, what.resource, what.namespace, what.name)
