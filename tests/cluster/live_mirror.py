"""The watch events of one service as a `World`, so that the invariants of tests/unit judge a real API server too."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proa_operator import names
from proa_operator.api.service import DisaggregatedService
from proa_operator.names import Role
from proa_operator.plan.actions import Action, Delete, Remember, Route, Ungate
from proa_operator.plan.memo import GroupMemo
from proa_operator.plan.state import NodeState, PoolState, Revision, RouteReason, Taint

from testbed.cluster import Document
from tests.cluster.live_api import Seen
from tests.unit.plan_invariants import Broken, Invariants
from tests.unit.plan_world import Pod, Set, World

KINDS = ("Pod", "StatefulSet", "ControllerRevision", "WorkerPool", "DisaggregatedService", "Node")
PROTOCOL = "SMG_PAIRING_PROTOCOL"
LAG_SECONDS = 3.0
Work = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An event, and the requests and leases of the service's workers when it arrived, by uid of the pod."""

    seen: Seen
    work: Work = field(default_factory=dict)


class Mirror(World):
    """Filled by `see`, which answers with what the operator did by that event, if it was the operator's."""

    def see(self, frame: Frame) -> Action | None:
        """Events of the service's own objects and of its nodes, in order."""
        seen = frame.seen
        self.now = seen.at
        for pod in self.pods.values():
            pod.running, pod.leases = frame.work.get(pod.uid, (0, 0))
        meta = seen.body["metadata"]
        is_there = seen.type != "DELETED"
        match seen.kind:
            case "Pod" if names.GROUP_LABEL in meta["labels"] and is_there:
                return self._see_pod(seen.body)
            case "Pod":
                self._lose(meta)
            case "StatefulSet":
                return self._see_set(seen.body, is_there=is_there)
            case "Node":
                assert self.nodes is not None
                self.nodes[meta["name"]] = node_state(seen.body, is_there=is_there)
            case "WorkerPool" if is_there:
                self._see_pool(seen.body)
            case "ControllerRevision" if meta["labels"].get(names.COMPONENT_LABEL) == names.Component.REVISION:
                self._see_revision(meta["labels"][names.REVISION_LABEL], seen.body["revision"])
            case "DisaggregatedService" if is_there:
                self._see_service(seen.body)
        return None

    def _see_service(self, body: Document) -> None:
        meta = {key: body["metadata"][key] for key in ("name", "namespace")}
        trimmed = {**{key: body[key] for key in ("apiVersion", "kind", "spec")}, "metadata": meta}
        self.service = DisaggregatedService.model_validate_json(json.dumps(trimmed))

    def _see_revision(self, name: str, number: int) -> None:
        """All revisions of these tests have one topology, so any of their specs tells it."""
        self.revisions[name] = Revision(name=name, number=number, spec=self.service.spec, started_at=self.now)

    def _see_pool(self, body: Document) -> None:
        role = Role(body["metadata"]["labels"][names.ROLE_LABEL])
        declared = (body["metadata"].get("annotations") or {}).get(names.DECLARED_ANNOTATION)
        if (replicas := body["spec"].get("replicas")) is not None:
            self.pools[role] = PoolState(role=role, replicas=replicas, declared=declared and int(declared))

    def _see_set(self, body: Document, *, is_there: bool) -> Action | None:
        meta = body["metadata"]
        known, memo = self.sets.get(meta["name"]), (meta.get("annotations") or {}).get(names.MEMO_ANNOTATION, "{}")
        is_deleting = not is_there or "deletionTimestamp" in meta
        if known is None or (known.is_deleting and not is_deleting):
            if not is_deleting:
                self.sets[meta["name"]] = set_of(body, self.now)
            return None
        before, known.memo = known.memo, GroupMemo.from_text(memo)
        if is_deleting and not known.is_deleting:
            known.is_deleting = True
            self._forget(known)
            return Delete(kind="StatefulSet", name=known.name)
        return Remember(group=known.name, memo=known.memo) if known.memo != before else None

    def _see_pod(self, body: Document) -> Action | None:
        new = pod_of(body)
        old = self.pods.get(new.name)
        self.pods[new.name] = new
        if new.is_routable and new.ordinal == 0 and new.set_name in self.sets:
            self.sets[new.set_name].has_served = True
        if old is None or old.uid != new.uid:
            return None
        new.running, new.leases = old.running, old.leases
        if old.is_gated and not new.is_gated:
            return Ungate(group=new.set_name, pods=(new.name,))
        if new.route_reason is not None and (old.is_routable, old.route_reason) != (new.is_routable, new.route_reason):
            return Route(pod=new.name, is_routable=new.is_routable, reason=new.route_reason)
        return None

    def _lose(self, meta: Document) -> None:
        pod = self.pods.get(meta["name"])
        if pod is not None and pod.uid == meta["uid"]:
            del self.pods[pod.name]
            if (owner := self.sets.get(pod.set_name)) is not None and owner.is_deleting:
                self._forget(owner)

    def _forget(self, owner: Set) -> None:
        """A StatefulSet is gone before its pods are, and they still count."""
        if not self.pods_of(owner):
            del self.sets[owner.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the invariants said of one service."""

    num_checks: int
    num_actions: int
    num_late: int
    """Actions that were right a moment before, when something had happened that the operator cannot have seen."""


class Judges:
    """The invariants by each generation of the spec that the operator may still go by.

    It tells in its status which one it has followed, and never goes back behind that.
    """

    def __init__(self, first: DisaggregatedService) -> None:
        self._by_generation = {0: (first, Invariants())}

    def see_service(self, service: DisaggregatedService, body: Document) -> None:
        """A new generation is judged from its event on; those that the status has passed are dropped."""
        generation, newest = body["metadata"]["generation"], max(self._by_generation)
        if generation > newest:
            self._by_generation[generation] = (service, copy.copy(self._by_generation[newest][1]))
        followed = min(body.get("status", {}).get("observedGeneration", 0), max(self._by_generation))
        self._by_generation = {known: one for known, one in self._by_generation.items() if known >= followed}

    def __call__(self, mirror: Mirror, action: Action | None) -> bool:
        """Whether the action is right by the newest spec; Broken unless it is by one of them."""
        broken: list[Broken] = []
        for service, invariants in self._by_generation.values():
            mirror.service = service
            try:
                invariants(mirror, action)
            except Broken as error:
                broken.append(error)
                is_right = False
            else:
                is_right = True
        if len(broken) == len(self._by_generation):
            raise broken[-1]
        return is_right


def judge(frames: Iterable[Frame], first: DisaggregatedService, *, has_nodes: bool) -> Judged:
    """All invariants at every event, in the order of the API server's store. Broken for the first that fails.

    The operator decides by what it has seen, and its writes take their time: what it decided by a spec that it had not
    yet left, or before a crash or a change of a node or less than LAG_SECONDS after it, is not held against it.
    """
    judges, num_checks, num_actions, num_late = Judges(first), 0, 0, 0
    mirror, disturbed_at = Mirror(first, nodes={} if has_nodes else None), 0.0
    for frame in sorted(frames, key=lambda frame: frame.seen.version):
        before = {pod.uid for pod in mirror.pods.values() if pod.is_loaded and not pod.is_terminating}
        action = mirror.see(frame)
        num_checks, num_actions = num_checks + 1, num_actions + (action is not None)
        after = {pod.uid for pod in mirror.pods.values() if pod.is_loaded and not pod.is_terminating}
        if before - after or frame.seen.kind == "Node":
            disturbed_at = frame.seen.at
        if frame.seen.kind == "DisaggregatedService" and frame.seen.type != "DELETED":
            judges.see_service(mirror.service, frame.seen.body)
        try:
            num_late += not judges(mirror, action)
        except Broken:
            if _decided_at(action, frame.seen.at) - disturbed_at > LAG_SECONDS:
                raise
            num_late += 1
    return Judged(num_checks=num_checks, num_actions=num_actions, num_late=num_late)


def _decided_at(action: Action | None, at: float) -> float:
    """A drain tells when it was planned; of any other action it is when it was seen."""
    return action.memo.drain.since if isinstance(action, Remember) and action.memo.drain is not None else at


def pod_of(body: Document) -> Pod:
    """As the world's truth has it; requests and leases are the fleet's to tell."""
    meta, status = body["metadata"], body.get("status", {})
    held = {entry["type"]: entry for entry in status.get("conditions", ())}
    routable = held.get(names.ROUTABLE_CONDITION, {})
    environment = {entry["name"]: entry.get("value", "") for entry in body["spec"]["containers"][0]["env"]}
    return Pod(
        uid=meta["uid"],
        name=meta["name"],
        ordinal=int(meta["name"].rpartition("-")[2]),
        set_name=meta["labels"][names.GROUP_LABEL],
        protocol=environment[PROTOCOL],
        created_at=0.0,
        node=body["spec"].get("nodeName", ""),
        is_gated=bool(body["spec"].get("schedulingGates")),
        is_terminating="deletionTimestamp" in meta,
        is_loaded=held.get("ContainersReady", {}).get("status") == "True",
        is_routable=routable.get("status") == "True",
        route_reason=RouteReason(routable["reason"]) if routable else None,
        num_restarts=sum(one["restartCount"] for one in status.get("containerStatuses", ())),
    )


def set_of(body: Document, now: float) -> Set:
    """A StatefulSet."""
    meta, spec = body["metadata"], body["spec"]
    resources: dict[str, Any] = spec["template"]["spec"]["containers"][0].get("resources", {})
    return Set(
        name=meta["name"],
        revision=meta["labels"][names.REVISION_LABEL],
        role=Role(meta["labels"][names.ROLE_LABEL]),
        index=int(meta["labels"][names.GROUP_INDEX_LABEL]),
        num_pods=spec["replicas"],
        gpus=int(resources.get("limits", {}).get("amd.com/gpu", 0)),
        created_at=now,
        memo=GroupMemo.from_text((meta.get("annotations") or {}).get(names.MEMO_ANNOTATION, "{}")),
    )


def node_state(body: Document, *, is_there: bool = True) -> NodeState:
    """What the generator and the invariants need of a node."""
    spec, status = body["spec"], body["status"]
    is_ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ()))
    amounts = {
        key: {name: int(value) for name, value in status[key].items() if name.startswith("amd.com/")}
        for key in ("capacity", "allocatable")
    }
    return NodeState(
        name=body["metadata"]["name"],
        is_ready=is_ready and is_there,
        is_unschedulable=bool(spec.get("unschedulable")),
        labels=body["metadata"]["labels"],
        taints=tuple(Taint(key=taint["key"]) for taint in spec.get("taints", ())),
        **amounts,
    )
