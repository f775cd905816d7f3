"""How one group stands: what follows from its pods, its memo and its nodes, and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proa_operator.plan.nodes import Demand, ailment, is_lost
from proa_operator.plan.settings import PlanSettings
from proa_operator.plan.state import Group, NodeState, PodState, ProbeResult, RouteReason

PROVEN = (RouteReason.ROUTABLE, RouteReason.HELD, RouteReason.CORDONED)
"""Reasons that were written after a passed probe only, so a restarted operator need not probe again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A group and the conclusions about it."""

    group: Group
    live: tuple[PodState, ...]
    """Pods that are not terminating."""
    is_lost: bool
    """A pod of it is on a node that cannot be reached."""
    ailment: str
    """Why it has to leave its node; empty when it has not."""
    is_up: bool
    """All pods are there with weights loaded."""
    is_proven: bool
    """Its leader took part in a probe transfer that passed."""
    leader: PodState | None
    """The pod that answers; None while it does not exist."""
    is_leaving: bool
    """On its way out for good."""
    is_routable: bool
    """The gateway sends it requests."""
    is_ready: bool
    """Fit to serve; routed or held back."""
    has_started: bool
    """A pod of it is through the gate, and not on a lost node."""
    is_counted: bool
    """Ready, or has served and will again: what the operator must not take away."""

    @property
    def through(self) -> tuple[PodState, ...]:
        """Live pods without the gate that no restart deletes: the memo's members, also where the memo is lost."""
        again = self.group.memo.restart
        doomed = frozenset() if again is None else again.doomed
        return tuple(pod for pod in self.live if not pod.is_gated and pod.uid not in doomed)

    @property
    def may_work(self) -> bool:
        """Some worker of it is up and can be reached. One that does not answer is given the time to."""
        return not self.is_lost and any(pod.is_loaded for pod in self.live)

    @property
    def may_hand_over(self) -> bool:
        """Decode of its revision is still needed: it has prompts, or is routed and may be back any moment."""
        return self.may_work or self.is_routable

    @property
    def holds_devices(self) -> bool:
        """It has or may get pods on nodes that can be reached; what is on a lost node is of no use to anybody."""
        return self.has_started if self.is_lost else bool(self.group.pods) or not self.group.is_deleting


def standing_of(
    group: Group, nodes: Mapping[str, NodeState] | None, demand: Demand, settings: PlanSettings, *, needs_probe: bool
) -> Standing:
    """Conclusions about `group`; `demand` is its revision's."""
    live = tuple(pod for pod in group.pods if not pod.is_terminating)
    leader = next((pod for pod in live if pod.ordinal == 0), None)
    on = {} if nodes is None else {pod.node: nodes.get(pod.node) for pod in group.pods if pod.node}
    is_gone = any(is_lost(node) for node in on.values())
    is_up = len(live) == group.num_pods and all(pod.is_loaded and not pod.is_failed for pod in live)
    proven = is_up and leader is not None and (not needs_probe or is_proven(leader))
    routable = is_up and leader is not None and leader.is_routable
    leaving = group.is_deleting or group.memo.drain is not None
    ready = (proven or routable) and not leaving and not is_gone
    return Standing(
        group=group,
        live=live,
        is_lost=is_gone,
        ailment=next((text for node in on.values() if (text := _leave(node, demand, settings))), ""),
        is_up=is_up,
        is_proven=proven,
        leader=leader,
        is_leaving=leaving,
        is_routable=routable,
        is_ready=ready,
        has_started=any(not pod.is_gated and (pod.node not in on or not is_lost(on[pod.node])) for pod in group.pods),
        is_counted=ready or (group.memo.served_at is not None and not leaving),
    )


def is_proven(pod: PodState) -> bool:
    """A probe passed since its containers became ready."""
    return pod.probe is ProbeResult.PASSED or (pod.probe is ProbeResult.UNKNOWN and pod.route_reason in PROVEN)


def _leave(node: NodeState | None, demand: Demand, settings: PlanSettings) -> str:
    reason = "" if node is None else ailment(node, demand, settings)
    return f"{node.name}: {reason}" if node is not None and reason else ""
