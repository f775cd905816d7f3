"""Nodes: which are fit for a group, which have to be left, and how many groups still fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proa_operator.api.placement import Toleration, TolerationOperator
from proa_operator.api.service import ServiceSpec
from proa_operator.plan.renderer import NodeRule
from proa_operator.plan.settings import PlanSettings
from proa_operator.plan.state import NodeState, Taint


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one pod of a group asks of a node."""

    resources: Mapping[str, int]
    rules: tuple[NodeRule, ...]
    tolerations: tuple[Toleration, ...]
    topology_key: str
    """Label whose value all pods of a group share; empty for none."""


def demand_of(spec: ServiceSpec, rules: tuple[NodeRule, ...]) -> Demand:
    """From a spec; the operator itself tolerates the taint that keeps other pods off GPU nodes."""
    tolerations = spec.placement.tolerations
    resources = {}
    if spec.accelerator is not None:
        name = spec.accelerator.resource_name
        resources[name] = spec.accelerator.gpus_per_pod
        tolerations = (*tolerations, Toleration(key=name, operator=TolerationOperator.EXISTS))
    return Demand(resources=resources, rules=rules, tolerations=tolerations, topology_key=spec.placement.topology_key)


def is_lost(node: NodeState | None) -> bool:
    """Its pods cannot be reached; None is a node that the cluster no longer has."""
    return node is None or not node.is_ready


def ailment(node: NodeState, demand: Demand, settings: PlanSettings) -> str:
    """Why groups have to leave the node, for a message; empty for a healthy one."""
    if node.is_unschedulable:
        return "the node is cordoned"
    for taint in node.taints:
        if taint.key in settings.unhealthy_taints:
            return f"the node has the taint {taint.key}"
    if node.allocatable != node.capacity:
        for resource in (*demand.resources, *settings.device_resources):
            offered, all_of_them = node.allocatable.get(resource, 0), node.capacity.get(resource, 0)
            if offered < all_of_them:
                return f"only {offered} of {all_of_them} {resource} are healthy"
    labels = dict(node.labels)
    for rule in demand.rules:
        if rule.is_negated and not rule.holds(labels):
            return f"the node has the label {rule.key}={labels.get(rule.key, '')}"
    return ""


def is_open(node: NodeState, demand: Demand) -> bool:
    """A new pod may land on this healthy node, room apart."""
    labels = dict(node.labels)
    return (
        node.is_ready
        and all(rule.holds(labels) for rule in demand.rules if not rule.is_negated)
        and all(_tolerates(demand.tolerations, taint) for taint in node.taints)
    )


def room(node: NodeState, demand: Demand) -> int:
    """Pods that still fit; without an accelerator there is no bound that the operator could see."""
    free = [(node.allocatable.get(name, 0) - node.used.get(name, 0)) // need for name, need in demand.resources.items()]
    return max(0, min(free)) if free else _UNBOUNDED


_UNBOUNDED = 1_000_000


class Rooms:
    """Room for groups, less what this plan has given away already."""

    def __init__(self, nodes: Iterable[NodeState], demand: Demand, settings: PlanSettings, *, taken: int) -> None:
        self._rooms: dict[str, int] = {}
        self._num_nodes: Counter[str] = Counter()
        self._taken = taken
        self.sick: list[str] = []
        """Nodes that the scheduler would take and that have a broken device."""
        for node in nodes:
            if not (fits := room(node, demand)) or node.is_unschedulable:
                continue
            if ailment(node, demand, settings):
                self.sick.append(node.name)
            elif is_open(node, demand):
                domain = node.labels.get(demand.topology_key, "") if demand.topology_key else ""
                self._rooms[domain] = self._rooms.get(domain, 0) + fits
                self._num_nodes[domain] += 1

    def has(self, *sizes: int) -> bool:
        """Whether groups of these numbers of pods all fit; the pods of one group go to different nodes of one domain.

        Conservative: pods on their way to a node unknown count against every domain.
        """
        return any(
            fits - self._taken >= sum(sizes) and self._num_nodes[domain] >= max(sizes)
            for domain, fits in self._rooms.items()
        )

    def take(self, size: int) -> None:
        """Give room to a group of so many pods."""
        self._taken += size


def _tolerates(tolerations: tuple[Toleration, ...], taint: Taint) -> bool:
    return taint.effect == "PreferNoSchedule" or any(_matches(toleration, taint) for toleration in tolerations)


def _matches(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.operator is TolerationOperator.EXISTS:
        return toleration.key in ("", taint.key)
    return toleration.key == taint.key and toleration.value == taint.value
