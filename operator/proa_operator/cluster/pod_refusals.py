"""Pods that the API server refuses to the StatefulSet controller: it says so nowhere but in Events."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from proa_operator.cluster.apply import refusal_from
from proa_operator.cluster.cache import Cache, ServiceKey, Stored
from proa_operator.cluster.facts import GroupFacts, PodFacts
from proa_operator.cluster.kinds import STATEFUL_SET
from proa_operator.plan.state import Refusal

SELECTOR = "reason=FailedCreate,involvedObject.kind=StatefulSet"
"""Field selector of the Events that matter here."""
_MOST = 4096


class PodRefusals:
    """The last such Event of each group. It counts as long as the group lacks pods: Events outlive their cause."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._messages: OrderedDict[tuple[str, str], str] = OrderedDict()

    def note(self, event: Mapping[str, Any]) -> ServiceKey | None:
        """Returns the service that it is news for."""
        about = event["involvedObject"]
        group = (about.get("namespace", ""), about["name"])
        found, message = self._cache.get(STATEFUL_SET, *group), event.get("message", "")
        if self._messages.get(group) == message:
            return None
        self._messages[group] = message
        self._messages.move_to_end(group)
        if len(self._messages) > _MOST:
            self._messages.popitem(last=False)
        return (found.namespace, found.service) if found is not None and found.service else None

    def of(self, children: Iterable[Stored]) -> tuple[Refusal, ...]:
        """Of groups that lack pods, each reason once."""
        own = list(children)
        pods = Counter(child.facts.membership for child in own if isinstance(child.facts, PodFacts))
        refusals = {
            refusal.reason: refusal
            for child in own
            if isinstance(child.facts, GroupFacts)
            and pods[child.facts.membership] < child.facts.num_pods
            and (message := self._messages.get((child.namespace, child.name)))
            for refusal in [refusal_from("Pod", message)]
        }
        return tuple(refusals.values())
