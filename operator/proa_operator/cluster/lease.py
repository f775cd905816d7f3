"""One step of the leader election, as a pure function of the Lease, and the clock rules around it.

The same rules as Kubernetes' own components: a lease that nobody was seen to renew for its duration may be taken, on
the watcher's own clock, so clocks of different machines need not agree. Its version lets only one taker succeed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Seconds. A dead leader is replaced after at most lease + two looks: 8 s."""

    lease: float = 7.0
    """Others may take a lease that they saw unchanged for so long."""
    renew_deadline: float = 5.0
    """A leader that could not renew for so long stops to write; shorter than the lease."""
    retry: float = 1.0
    """Between two renewals of the leader."""
    look: float = 0.5
    """Between two looks of the others."""
    grace: float = 3.5
    """Who could not read the Lease for longer leaves its holder so long to renew it: a hanging attempt and another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A version of the Lease, and when this replica first and last saw it on its own clock."""

    version: str = ""
    at: float = 0.0
    last_at: float = 0.0


def seen(lease: Mapping[str, Any], last: Sighting, terms: Terms, now: float) -> Sighting:
    """A new one when the Lease has changed, else `last` seen again; an outage of the API server is not its holder's."""
    version = lease["metadata"]["resourceVersion"]
    if version != last.version:
        return Sighting(version=version, at=now, last_at=now)
    was_blind = now - last.last_at > terms.grace
    at = max(last.at, now + terms.grace - terms.lease) if was_blind else last.at
    return Sighting(version=version, at=at, last_at=now)


def may_take(lease: Mapping[str, Any], me: str, sighting: Sighting, terms: Terms, now: float) -> bool:
    """It is ours, free, or was not renewed for its duration."""
    spec = lease.get("spec") or {}
    holder, duration = spec.get("holderIdentity", ""), spec.get("leaseDurationSeconds", terms.lease)
    return holder in ("", me) or now - sighting.at >= duration


def taken(lease: Mapping[str, Any], me: str, terms: Terms, now: datetime, *, is_renewal: bool) -> dict[str, Any]:
    """The Lease with us as its holder. A taking counts as a transition, also from an earlier life of ours."""
    spec = dict(lease.get("spec") or {})
    stamp = micro_time(now)
    if not is_renewal:
        spec["acquireTime"], spec["leaseTransitions"] = stamp, spec.get("leaseTransitions", 0) + 1
    spec |= {"holderIdentity": me, "leaseDurationSeconds": round(terms.lease), "renewTime": stamp}
    return {**lease, "spec": spec}


def given_back(lease: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The Lease without a holder: another replica takes it at its next look."""
    spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time(now)}
    return {**lease, "spec": spec}


def new_lease(name: str, namespace: str, owners: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Held by nobody yet; deleted with its owners."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": list(owners)},
        "spec": {},
    }


def micro_time(now: datetime) -> str:
    """As the API writes it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
