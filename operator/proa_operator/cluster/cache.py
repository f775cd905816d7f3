"""The operator's picture of the cluster, from lists, watch events and the answers to its own writes.

Versions decide which news is newer (Kubernetes 1.35 and later define resourceVersion as comparable numbers), so an
answer to a write is in the cache at once, and a watch event that is older than it changes nothing.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from proa_operator import names
from proa_operator.cluster.facts import Facts, NodeFacts, PodFacts
from proa_operator.cluster.kinds import NODE, POD, SERVICE, Kind
from proa_operator.cluster.node_view import NodeView
from proa_operator.cluster.touched import touched_at
from proa_operator.cluster.trim import facts_of

ServiceKey = tuple[str, str]
"""Namespace and name of a DisaggregatedService."""
_MOST_TOMBSTONES = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object."""

    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    owner: str
    """Uid of the controlling owner; empty for none."""
    service: str
    """Service that it belongs to, by its label; of a service its own name."""
    applied: str
    """Digest of what was applied last."""
    touched: str
    """When someone else wrote to it after that; empty for never."""
    facts: Facts


class Cache:
    """Not for threads. Each change tells `on_news` which services may have to be planned again, whoever made it."""

    def __init__(self, on_news: Callable[[set[ServiceKey]], None]) -> None:
        self._on_news = on_news
        self._num_news: Counter[ServiceKey] = Counter()
        self._objects: dict[str, dict[tuple[str, str], Stored]] = {}
        self._children: dict[ServiceKey, dict[tuple[str, str], Stored]] = {}
        self._tombstones: OrderedDict[str, float] = OrderedDict()
        """Uid of what is gone -> version up to which news of it is old."""
        self.nodes = NodeView()

    def put(self, kind: Kind, body: Mapping[str, Any]) -> None:
        """An object as it was read. What is old, or says nothing new, is no news."""
        if concerned := self._put(kind, body):
            self._tell(concerned)

    def _put(self, kind: Kind, body: Mapping[str, Any]) -> set[ServiceKey]:
        meta = body["metadata"]
        uid, version = meta["uid"], int(meta["resourceVersion"])
        old = self._objects.get(kind.name, {}).get((meta.get("namespace", ""), meta["name"]))
        is_known = old is not None and old.uid == uid and old.version >= version
        if is_known or version <= self._tombstones.get(uid, -1.0):
            return set()
        new = stored_of(kind, body)
        if not _is_of_interest(new):
            return self._drop(old) if old is not None else set()
        moved = self._drop(old) if old is not None and old.service != new.service else set()
        self._objects.setdefault(kind.name, {})[new.namespace, new.name] = new
        if new.service and kind is not SERVICE:
            self._children.setdefault((new.namespace, new.service), {})[kind.name, new.name] = new
        return moved | self._changed(None if moved else old, new)

    def remove(self, kind: Kind, namespace: str, name: str, uid: str, version: float = math.inf) -> None:
        """An object that is gone since `version`; another one of the same name is not touched.

        To a watch by labels it is also gone when it loses its label, and may come back under the same uid.
        """
        self._tombstones[uid] = max(version, self._tombstones.get(uid, -1.0))
        if len(self._tombstones) > _MOST_TOMBSTONES:
            self._tombstones.popitem(last=False)
        old = self._objects.get(kind.name, {}).get((namespace, name))
        if old is not None and old.uid == uid and (concerned := self._drop(old)):
            self._tell(concerned)

    def num_news(self, key: ServiceKey) -> int:
        """Grows with all that changes what is known of a service, the answers to the operator's own writes included."""
        return self._num_news[key]

    def forget(self, key: ServiceKey) -> None:
        """The service is gone."""
        self._num_news.pop(key, None)

    def get(self, kind: Kind, namespace: str, name: str) -> Stored | None:
        """One object."""
        return self._objects.get(kind.name, {}).get((namespace, name))

    def all(self, kind: Kind) -> Iterator[Stored]:
        """All objects of a kind, in no order; safe to change the cache meanwhile."""
        return iter(list(self._objects.get(kind.name, {}).values()))

    def count(self, kind: Kind) -> int:
        """Objects of a kind."""
        return len(self._objects.get(kind.name, {}))

    def children(self, key: ServiceKey) -> list[Stored]:
        """All objects with the label of a service."""
        return list(self._children.get(key, {}).values())

    def services(self) -> list[ServiceKey]:
        """All services."""
        return list(self._objects.get(SERVICE.name, {}))

    def _tell(self, concerned: set[ServiceKey]) -> None:
        self._num_news.update(concerned)
        self._on_news(concerned)

    def _drop(self, old: Stored) -> set[ServiceKey]:
        del self._objects[old.kind][old.namespace, old.name]
        siblings = self._children.get((old.namespace, old.service))
        if siblings is not None and old.kind != SERVICE.name:
            siblings.pop((old.kind, old.name), None)
            if not siblings:
                del self._children[old.namespace, old.service]
        return self._changed(old, None)

    def _changed(self, old: Stored | None, new: Stored | None) -> set[ServiceKey]:
        if old is not None and new is not None and _news(old) == _news(new):
            return set()
        some = new or old
        assert some is not None
        concerned: set[ServiceKey] = set()
        if some.kind == NODE.name:
            return self.nodes.put_node(some.name, new.facts if new and isinstance(new.facts, NodeFacts) else None)
        if some.kind == POD.name:
            concerned |= self.nodes.put_pod(
                (some.namespace, some.name),
                (some.namespace, some.service),
                new.facts if new and isinstance(new.facts, PodFacts) else None,
            )
        return concerned | ({(some.namespace, some.service)} if some.service else set())


def stored_of(kind: Kind, body: Mapping[str, Any]) -> Stored:
    """What the cache keeps of an object."""
    meta = body["metadata"]
    owners = [owner["uid"] for owner in meta.get("ownerReferences") or () if owner.get("controller")]
    label = (meta.get("labels") or {}).get(names.SERVICE_LABEL, "")
    return Stored(
        kind=kind.name,
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        owner=owners[0] if owners else "",
        service=meta["name"] if kind is SERVICE else label,
        applied=(meta.get("annotations") or {}).get(names.APPLIED_ANNOTATION, ""),
        touched=touched_at(meta) if label else "",
        facts=facts_of(kind, body),
    )


def _is_of_interest(new: Stored) -> bool:
    """Pods of others count only for what they take from their nodes."""
    if new.kind != POD.name or new.service:
        return True
    return isinstance(new.facts, PodFacts) and bool(new.facts.requests)


def _news(stored: Stored) -> tuple[object, ...]:
    """All but the version."""
    return (stored.uid, stored.owner, stored.service, stored.applied, stored.touched, stored.facts)
