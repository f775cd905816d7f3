"""Server-side apply without needless writes.

Each object carries a digest of what was applied. An object whose cached digest is equal is left alone, unless someone
else has written to it since (`Stored.touched`): then it is applied once more, which takes our fields back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from proa_operator import names
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.cache import Cache, ServiceKey, Stored
from proa_operator.cluster.errors import Gone, Refused
from proa_operator.cluster.kinds import KINDS, STATEFUL_SET
from proa_operator.plan.state import Refusal

Json = dict[str, Any]
Name = tuple[str, str]


class Applier:
    """Remembers what was refused until the same write succeeds."""

    def __init__(self, api: Api, cache: Cache) -> None:
        self._api, self._cache = api, cache
        self._refusals: dict[ServiceKey, dict[Name, Refusal]] = {}
        self._restored: dict[str, str] = {}

    def refusals(self, key: ServiceKey) -> tuple[Refusal, ...]:
        """Of the service's writes, in the order of their first refusal."""
        return tuple(self._refusals.get(key, {}).values())

    def forget(self, key: ServiceKey) -> None:
        """The service is gone."""
        self._refusals.pop(key, None)

    async def apply(self, objects: Iterable[Json], service: Stored, *, is_forced: bool = False) -> None:
        """Those that are not so yet. Raises ApiError, Unreachable, LostLease at the first that fails.

        A StatefulSet goes first: the planner takes what has a group's name, but no StatefulSet, for a leftover, and
        would delete it after a crash between the two. Its pods are gated: they do not start before the rest is there.
        """
        for wanted in sorted(objects, key=lambda wanted: wanted["kind"] != STATEFUL_SET.name):
            body = stamped(wanted)
            if is_forced or self._is_needed(body, service):
                await self._one(body, service)

    def _is_needed(self, body: Json, service: Stored) -> bool:
        meta = body["metadata"]
        old = self._cache.get(KINDS[body["kind"]], service.namespace, meta["name"])
        if old is None or old.owner != service.uid or old.applied != meta["annotations"][names.APPLIED_ANNOTATION]:
            return True
        return self.is_touched(old)

    def is_touched(self, child: Stored) -> bool:
        """Somebody else has written to it, and it was not applied again since."""
        return bool(child.touched) and self._restored.get(child.uid) != child.touched

    async def _one(self, body: Json, service: Stored) -> None:
        kind, meta, key = KINDS[body["kind"]], body["metadata"], (service.namespace, service.name)
        ref = Ref(kind=kind, name=meta["name"], namespace=service.namespace)
        old = self._cache.get(kind, service.namespace, meta["name"])
        try:
            answer = await self._api.apply(ref, body, manager=names.MANAGER)
        except (Refused, Gone) as error:
            self._refusals.setdefault(key, {})[kind.name, meta["name"]] = refusal_of(kind.name, error)
            raise
        self._refusals.get(key, {}).pop((kind.name, meta["name"]), None)
        if old is not None and old.touched:
            self._restored[old.uid] = old.touched
        self._cache.put(kind, answer)


def stamped(wanted: Json) -> Json:
    """The object with the digest of itself in an annotation."""
    text = json.dumps(wanted, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    meta = wanted["metadata"]
    return {
        **wanted,
        "metadata": {**meta, "annotations": {**meta.get("annotations", {}), names.APPLIED_ANNOTATION: digest}},
    }


def refusal_of(kind: str, error: Refused | Gone) -> Refusal:
    """Reason and fix."""
    if isinstance(error, Gone):
        return Refusal(
            reason="MissingKind", message=f"the cluster does not know {kind}: install its CRD ({error.message})"
        )
    return refusal_from(kind, error.message)


def refusal_from(kind: str, message: str) -> Refusal:
    """By what the API server says."""
    for words, reason, fix in _FIXES:
        if words in message:
            return Refusal(reason=reason, message=f"{message}; {fix}")
    return Refusal(reason="Refused", message=f"the API server refuses {kind}: {message}")


_FIXES = (
    ("violates PodSecurity", "PodSecurity", "use spec.security.profile Restricted, or raise the namespace's level"),
    ("exceeded quota", "QuotaExceeded", "raise the namespace's quota, or lower the replicas"),
    ("cannot ", "Forbidden", "give the operator's role this right, or upgrade the chart"),
    ("being terminated", "NamespaceTerminating", "wait until the namespace is gone"),
)
