"""Nodes with what their pods take from them, and who waits for room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from proa_operator import names
from proa_operator.cluster.facts import NodeFacts, PodFacts
from proa_operator.plan.state import NodeState

ServiceKey = tuple[str, str]


class NodeView:
    """Kept up to date one change at a time; `states` is shared by all observations."""

    def __init__(self) -> None:
        self._facts: dict[str, NodeFacts] = {}
        self._used: dict[str, Counter[str]] = {}
        self._pods: dict[tuple[str, str], tuple[ServiceKey, PodFacts]] = {}
        self._residents: dict[str, Counter[ServiceKey]] = {}
        self._waiting: Counter[ServiceKey] = Counter()
        self._unbound: Counter[ServiceKey] = Counter()
        self._num_unbound = 0
        self._promised: dict[ServiceKey, frozenset[str]] = {}
        self._states: dict[str, NodeState] = {}
        self.states: Mapping[str, NodeState] = MappingProxyType(self._states)

    def put_node(self, name: str, facts: NodeFacts | None) -> set[ServiceKey]:
        """A node came, changed or went (None). Returns its residents and everyone who waits for room."""
        if facts is None:
            self._facts.pop(name, None)
            self._states.pop(name, None)
        else:
            self._facts[name] = facts
            self._refresh(name)
        return set(self._residents.get(name, ())) | set(self._waiting)

    def put_pod(self, pod: tuple[str, str], service: ServiceKey, facts: PodFacts | None) -> set[ServiceKey]:
        """A pod (namespace, name) came, changed or went. Returns who waits for room, when it gave some back."""
        old = self._pods.pop(pod, None)
        if old is not None:
            self._count(*old, sign=-1)
        if facts is not None:
            self._pods[pod] = (service, facts)
            self._count(service, facts, sign=1)
        before, after = _taken(old[1] if old else None), _taken(facts)
        if before == after:
            return set()
        for node in {before[0], after[0]} - {""}:
            self._refresh(node)
        return set(self._waiting) if before[1] else set()

    def promise(self, service: ServiceKey, pods: frozenset[str]) -> None:
        """Names of its pods that are about to pass their gates; none ends the promise.

        Services are planned side by side: without it each would count on the room that all others count on.
        """
        self._promised.pop(service, None)
        if pods:
            self._promised[service] = pods

    def unbound_besides(self, service: ServiceKey) -> int:
        """Pods of other services that have no node yet, and are ungated or about to be."""
        others = ((key[0], pod) for key, pods in self._promised.items() if key != service for pod in pods)
        return self._num_unbound - self._unbound.get(service, 0) + sum(map(self._is_gated, others))

    def _is_gated(self, pod: tuple[str, str]) -> bool:
        return pod in self._pods and names.GANG_GATE in self._pods[pod][1].gates

    def _count(self, service: ServiceKey, facts: PodFacts, *, sign: int) -> None:
        node, requests = _taken(facts)
        if node:
            used = self._used.setdefault(node, Counter())
            for name, amount in requests:
                used[name] += sign * amount
        if not service[1]:
            return
        if facts.node:
            _add(self._residents.setdefault(facts.node, Counter()), service, sign)
        elif names.GANG_GATE in facts.gates:
            _add(self._waiting, service, sign)
        elif facts.membership is not None and not facts.is_over and not facts.is_terminating:
            _add(self._unbound, service, sign)
            self._num_unbound += sign

    def _refresh(self, name: str) -> None:
        facts = self._facts.get(name)
        if facts is None:
            return
        self._states[name] = NodeState(
            name=name,
            is_ready=facts.is_ready,
            is_unschedulable=facts.is_unschedulable,
            labels=facts.labels,
            taints=facts.taints,
            capacity=facts.capacity,
            allocatable=facts.allocatable,
            used=dict(self._used.get(name, ())),
        )


def _taken(facts: PodFacts | None) -> tuple[str, tuple[tuple[str, int], ...]]:
    """Node and amounts; nothing for a pod that is over or not bound."""
    return ("", ()) if facts is None or facts.is_over or not facts.node else (facts.node, facts.requests)


def _add(counter: Counter[ServiceKey], service: ServiceKey, sign: int) -> None:
    counter[service] += sign
    if not counter[service]:
        del counter[service]
