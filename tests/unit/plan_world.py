"""A simulated cluster for the planner: API objects, controllers, kubelet, workers and traffic on a virtual clock.

Nothing here is taken from the planner but its types. `World.run` turns events into plans and applies their actions one
by one; `watchers` see the world after each event and after each action.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from proa_operator.api.service import DisaggregatedService, Topology
from proa_operator.names import Role
from proa_operator.plan.actions import (
    Action,
    Apply,
    Delete,
    DrainWorker,
    MarkAvailable,
    MarkFailed,
    Note,
    Plan,
    Probe,
    Remember,
    Route,
    Scale,
    StartRevision,
    Ungate,
)
from proa_operator.plan.memo import NOTHING, GroupMemo
from proa_operator.plan.plan import plan
from proa_operator.plan.renderer import Renderer
from proa_operator.plan.settings import PlanSettings
from proa_operator.plan.state import (
    GatewayState,
    Group,
    JobState,
    NodeState,
    Observed,
    PodState,
    PoolState,
    ProbeResult,
    Revision,
    RouteReason,
    StartPhase,
    WorkerLoad,
)

from tests.unit.plan_fakes import FakeRenderer


@dataclass
class Behaviour:
    """How pods of one model act."""

    start_seconds: float = 20.0
    is_broken: bool = False
    """Loads, and never becomes ready."""
    is_silent: bool = False
    """Does not even load."""
    crash_after: float | None = None
    """Crashes this long after each start."""
    error_rate: float = 0.0
    ttft_seconds: float = 0.1
    fails_probes: bool = False


@dataclass(eq=False)
class Pod:
    uid: str
    name: str
    ordinal: int
    set_name: str
    protocol: str
    created_at: float
    node: str = ""
    is_gated: bool = True
    is_terminating: bool = False
    is_loaded: bool = False
    is_routable: bool = False
    route_reason: RouteReason | None = None
    unrouted_at: float | None = None
    probe: ProbeResult = ProbeResult.UNKNOWN
    probed_at: float | None = None
    unschedulable_since: float | None = None
    num_restarts: int = 0
    phase: StartPhase = StartPhase.LOAD
    fraction: float = 0.0
    running: int = 0
    leases: int = 0
    finished: int = 0
    stepped_at: float | None = None
    is_stalled: bool = False


@dataclass(eq=False)
class Set:
    """A StatefulSet."""

    name: str
    revision: str
    role: Role
    index: int
    num_pods: int
    gpus: int
    created_at: float
    memo: GroupMemo = NOTHING
    is_deleting: bool = False
    is_drain_requested: bool = False
    has_served: bool = False
    """Truth of the world, not the planner's memo."""


AFTER_PROBE = (RouteReason.ROUTABLE, RouteReason.HELD, RouteReason.CORDONED)
Watcher = Callable[["World", Action | None], None]


@dataclass
class World:
    service: DisaggregatedService
    seed: int = 0
    settings: PlanSettings = field(default_factory=PlanSettings)
    renderer: Renderer = field(default_factory=FakeRenderer)
    nodes: dict[str, NodeState] | None = None
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    """By model URI."""
    period: float = 15.0
    """Longest time between two plans, as the shell's ticker has it."""
    load_steps: int = 10
    """How often a loading worker is seen to be further."""
    watchers: list[Watcher] = field(default_factory=list)
    neighbours: list[World] = field(default_factory=list)
    """Other services on the same nodes."""
    unschedulable: set[str] = field(default_factory=set)
    """Names of pods that the scheduler refuses for a reason that the operator cannot see."""
    die_at: int | None = None
    """The operator is killed in place of this action, and starts again."""

    def __post_init__(self) -> None:
        self.now = 1000.0
        self.random = Random(self.seed)
        self.generation = 1
        self.sets: dict[str, Set] = {}
        self.pods: dict[str, Pod] = {}
        self.present: set[tuple[str, str]] = set()
        self.pools: dict[Role, PoolState] = {}
        self.revisions: dict[str, Revision] = {}
        self.gateway: GatewayState | None = None
        self.gateway_kinds: set[Topology] = set()
        """Topologies of the gateway pods that serve."""
        self.job: JobState | None = None
        self.status: dict[str, Any] = {}
        self.notes: list[Note] = []
        self.log: list[Action] = []
        self.num_actions = 0
        self.load_per_leader = 2
        self.drain_seconds = 5.0
        self.lease_seconds = 3.0
        self.write_seconds = 0.0
        """How long after its plan a cordon takes effect."""
        self.gateway_seconds = 40.0
        self.are_followers_silent = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._wakes: set[float] = set()

    # -- time ---------------------------------------------------------------------------------------------------------

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), do))

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True when `until` held before it was over."""
        end = self.now + seconds
        self.reconcile()
        while not (until and until()):
            tick = self.now + self.period
            due = min(self._events[0][0] if self._events else tick, tick)
            if due > end:
                self.now = end
                self.reconcile()
                return until is not None and until()
            self.now = max(self.now, due)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
                self.seen(None)
            self.reconcile()
        return True

    def seen(self, action: Action | None) -> None:
        for watch in self.watchers:
            watch(self, action)

    # -- the operator -------------------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        return Observed(
            service=self.service,
            uid="u",
            generation=self.generation,
            now=self.now,
            pools=dict(self.pools),
            revisions=tuple(replace(known, spec=self._with_present(known)) for known in self.revisions.values()),
            groups=tuple(self._group(owner) for owner in self.sets.values()),
            nodes=self._node_view(),
            unbound_pods=sum(
                not pod.is_gated and not pod.node and pod.unschedulable_since is None
                for world in self.neighbours
                for pod in world.pods.values()
            ),
            job=self.job,
            gateway=self.gateway,
            present=frozenset(self.present),
            status=self.status,
        )

    def plan(self) -> Plan:
        return plan(self.observe(), self.settings, self.renderer)

    def reconcile(self, limit: int = 25) -> None:
        """Plan and act until nothing is left to do."""
        for _ in range(limit):
            made = self.plan()
            self.status = made.status
            for action in made.actions:
                if not self.act(action):
                    break
            if made.wake_at is not None and made.wake_at not in self._wakes:
                self._wakes.add(made.wake_at)
                self.after(max(0.0, made.wake_at - self.now), lambda: None)
            if not made.actions:
                return
        raise AssertionError(f"the planner does not come to rest: {made.actions}")

    def act(self, action: Action) -> bool:
        """Carry out an action; False when the operator was killed instead."""
        self.num_actions += 1
        if self.num_actions == self.die_at:
            self.forget()
            return False
        self.log.append(action)
        {
            Apply: self._apply,
            Delete: self._delete,
            Scale: self._scale,
            Remember: self._remember,
            Ungate: self._ungate,
            Route: self._route,
            Probe: self._probe,
            DrainWorker: self._drain_worker,
            MarkAvailable: self._mark_available,
            MarkFailed: self._mark_failed,
            StartRevision: self._start_revision,
            Note: self.notes.append,
        }[type(action)](action)  # type: ignore[operator]
        self.seen(action)
        return True

    def forget(self) -> None:
        """What an operator holds in memory only is gone."""
        for pod in self.pods.values():
            pod.probe, pod.probed_at, pod.stepped_at = ProbeResult.UNKNOWN, None, self.now

    # -- what a user or the world does --------------------------------------------------------------------------------

    def change(self, service: DisaggregatedService) -> None:
        self.service = service
        self.generation += 1
        self.seen(None)

    def scale(self, role: Role, replicas: int) -> None:
        """kubectl scale wpool."""
        self.pools[role] = replace(self.pools[role], replicas=replicas)
        self.seen(None)

    def crash(self, pod: Pod) -> None:
        """Its container starts again in place."""
        if pod.name not in self.pods or pod.is_gated or not pod.node or pod.is_terminating:
            return
        pod.is_loaded, pod.probe, pod.probed_at = False, ProbeResult.UNKNOWN, None
        pod.running = pod.leases = 0
        pod.num_restarts += 1
        self._start(pod)

    def lose_pod(self, pod: Pod) -> None:
        """Somebody deleted it."""
        self._terminate(pod)

    def set_node(self, name: str, **fields: Any) -> None:
        assert self.nodes is not None
        self.nodes[name] = replace(self.nodes[name], **fields)
        if fields.get("is_ready") is False:
            self.after(300.0, lambda: self._evict(name))
        if fields.get("is_ready"):
            for pod in [pod for pod in self.pods.values() if pod.node == name and pod.is_terminating]:
                self._remove(pod)

    def gpus_of(self, owner: Set) -> int:
        return owner.gpus

    def pods_of(self, owner: Set) -> list[Pod]:
        names = (f"{owner.name}-{ordinal}" for ordinal in range(owner.num_pods))
        return [self.pods[name] for name in names if name in self.pods]

    def behaviour(self, owner: Set) -> Behaviour:
        return self.behaviours.get(self.revisions[owner.revision].spec.model.uri, Behaviour())

    def is_node_lost(self, name: str) -> bool:
        return bool(name) and self.nodes is not None and (name not in self.nodes or not self.nodes[name].is_ready)

    # -- controllers and kubelet --------------------------------------------------------------------------------------

    def _sync(self, owner: Set) -> None:
        """The StatefulSet controller: Parallel, one name at a time."""
        if owner.is_deleting or self.sets.get(owner.name) is not owner:
            return
        for ordinal in range(owner.num_pods):
            name = f"{owner.name}-{ordinal}"
            if name not in self.pods:
                self.pods[name] = Pod(
                    uid=f"uid-{next(self._count)}",
                    name=name,
                    ordinal=ordinal,
                    set_name=owner.name,
                    protocol=owner.revision,
                    created_at=self.now,
                )

    def _schedule(self, pod: Pod) -> None:
        if self.pods.get(pod.name) is not pod or pod.is_gated or pod.node or pod.is_terminating:
            return
        owner = self.sets[pod.set_name]
        node = self._place(owner, pod)
        if node is None:
            pod.unschedulable_since = self.now if pod.unschedulable_since is None else pod.unschedulable_since
            self.after(5.0, lambda: self._schedule(pod))
            return
        pod.node, pod.unschedulable_since = node, None
        self._start(pod)

    def _place(self, owner: Set, pod: Pod) -> str | None:
        if pod.name in self.unschedulable:
            return None
        if self.nodes is None:
            return f"anywhere-{pod.name}"
        avoid = self._avoid.get(owner.name, ())
        mates = {mate.node for mate in self.pods_of(owner)}
        for node in self._node_view().values():  # type: ignore[union-attr]
            free = node.allocatable.get("amd.com/gpu", 0) - node.used.get("amd.com/gpu", 0)
            is_open = node.is_ready and not node.is_unschedulable and not node.taints and node.name not in avoid
            if is_open and free >= owner.gpus and node.name not in mates:
                return node.name
        return None

    _avoid: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def _start(self, pod: Pod) -> None:
        owner = self.sets[pod.set_name]
        how = self.behaviour(owner)
        life = (pod.uid, pod.num_restarts)
        pod.phase, pod.fraction = StartPhase.LOAD, 0.0
        if how.is_silent:
            return
        seconds = how.start_seconds * self.random.uniform(0.7, 1.3)
        for done in range(1, self.load_steps):
            share = done / self.load_steps
            self.after(seconds * share, lambda share=share: self._load(pod, life, share))  # type: ignore[misc]
        if not how.is_broken:
            self.after(seconds, lambda: self._loaded(pod, life))
        if how.crash_after is not None:
            self.after(how.crash_after, lambda: self._crash_in(pod, life))

    def _crash_in(self, pod: Pod, life: tuple[str, int]) -> None:
        if self._is_alive(pod, life):
            self.crash(pod)

    def _is_alive(self, pod: Pod, life: tuple[str, int]) -> bool:
        return self.pods.get(pod.name) is pod and (pod.uid, pod.num_restarts) == life and not pod.is_terminating

    def _load(self, pod: Pod, life: tuple[str, int], fraction: float) -> None:
        if self._is_alive(pod, life):
            pod.fraction = fraction

    def _loaded(self, pod: Pod, life: tuple[str, int]) -> None:
        if self._is_alive(pod, life):
            pod.is_loaded, pod.phase, pod.fraction, pod.stepped_at = True, StartPhase.SERVING, 1.0, self.now

    def _terminate(self, pod: Pod) -> None:
        if pod.is_terminating:
            return
        pod.is_terminating = True
        if not self.is_node_lost(pod.node):
            self.after(self.random.uniform(0.5, 3.0), lambda: self._remove(pod))

    def _remove(self, pod: Pod) -> None:
        if self.pods.get(pod.name) is not pod or self.is_node_lost(pod.node):
            return
        del self.pods[pod.name]
        owner = self.sets.get(pod.set_name)
        if owner is not None and owner.is_deleting and not self.pods_of(owner):
            del self.sets[owner.name]
        elif owner is not None:
            self.after(0.5, lambda: self._sync(owner))

    def _evict(self, node: str) -> None:
        """The node life-cycle controller, five minutes after the node went away."""
        if self.is_node_lost(node):
            for pod in [pod for pod in self.pods.values() if pod.node == node]:
                self._terminate(pod)

    # -- actions ------------------------------------------------------------------------------------------------------

    def _apply(self, action: Apply) -> None:
        for item in action.objects:
            kind, name, body = item["kind"], item["metadata"]["name"], item["body"]
            self.present.add((kind, name))
            if kind == "StatefulSet" and name not in self.sets:
                owner = Set(
                    name=name,
                    revision=body["revision"],
                    role=body["role"],
                    index=body["index"],
                    num_pods=body["numPods"],
                    gpus=body["gpus"],
                    created_at=self.now,
                )
                self.sets[name] = owner
                self.after(0.5, lambda owner=owner: self._sync(owner))  # type: ignore[misc]
            if kind == "Deployment" and (self.gateway is None or self.gateway.topology is not body["topology"]):
                self.gateway = GatewayState(topology=body["topology"], num_ready=1 if self.gateway else 0)
                self.after(self.gateway_seconds, self._gateway_rolled)
            if kind == "Job":
                self.job = JobState(bytes_total=100)

    def _gateway_rolled(self) -> None:
        assert self.gateway is not None
        self.gateway = replace(self.gateway, num_ready=2, is_rolled=True)
        self.gateway_kinds = {self.gateway.topology}

    def _delete(self, action: Delete) -> None:
        self.present.discard((action.kind, action.name))
        if action.kind == "StatefulSet":
            owner = self.sets[action.name]
            owner.is_deleting = True
            for pod in self.pods_of(owner):
                self._terminate(pod)
            if not self.pods_of(owner):
                del self.sets[owner.name]
        elif action.kind == "Pod":
            if action.name in self.pods and action.uid in ("", self.pods[action.name].uid):
                self._terminate(self.pods[action.name])
        elif action.kind == "ControllerRevision":
            self.revisions.pop(action.name.removeprefix("s-"), None)

    def _scale(self, action: Scale) -> None:
        self.pools[action.role] = PoolState(role=action.role, replicas=action.replicas, declared=action.replicas)

    def _remember(self, action: Remember) -> None:
        memo = GroupMemo.from_text(action.memo.to_text())
        assert memo == action.memo
        self.sets[action.group].memo = memo

    def _ungate(self, action: Ungate) -> None:
        self._avoid[action.group] = action.avoid
        for name in action.pods:
            pod = self.pods[name]
            pod.is_gated = False
            self.after(0.2, lambda pod=pod: self._schedule(pod))  # type: ignore[misc]

    def _route(self, action: Route) -> None:
        pod = self.pods[action.pod]
        was_routable = pod.is_routable
        pod.is_routable, pod.route_reason = action.is_routable, action.reason
        if was_routable is not pod.is_routable:
            pod.unrouted_at = None if pod.is_routable else self.now + self.write_seconds
        if pod.is_routable and not was_routable and pod.ordinal == 0:
            self.sets[pod.set_name].has_served = True
            pod.running, pod.stepped_at = self.load_per_leader, self.now
            pod.leases = self.load_per_leader if self.sets[pod.set_name].role is Role.PREFILL else 0
            self.after(5.0, lambda: self._serve(pod))
        if was_routable and not pod.is_routable:
            self.after(self.drain_seconds * self.random.uniform(0.5, 1.5), lambda: self._finish(pod))

    def _serve(self, pod: Pod) -> None:
        """Requests end all the time."""
        if self.pods.get(pod.name) is pod and pod.is_routable and pod.is_loaded and not pod.is_stalled:
            pod.finished += 10
            pod.stepped_at = self.now
        if self.pods.get(pod.name) is pod and pod.is_routable:
            self.after(20.0, lambda: self._serve(pod))

    def _finish(self, pod: Pod) -> None:
        if not pod.is_routable:
            pod.running = 0
            self.after(self.lease_seconds, lambda: self._end_leases(pod))

    def _end_leases(self, pod: Pod) -> None:
        if not pod.is_routable:
            pod.leases = 0

    def _probe(self, action: Probe) -> None:
        pair = [self.pods[action.prefill_pod], self.pods[action.decode_pod]]
        lives = [(pod.uid, pod.num_restarts) for pod in pair]
        for pod in pair:
            # As in the shell an outcome is of one life: a probe of a pod that has crashed says nothing of its next one.
            if pod.is_loaded and pod.probe is not ProbeResult.PASSED and pod.route_reason not in AFTER_PROBE:
                pod.probe = ProbeResult.RUNNING
        self.after(1.0, lambda: self._probed(pair, lives))

    def _probed(self, pair: list[Pod], lives: list[tuple[str, int]]) -> None:
        is_alive = all(self._is_alive(pod, life) and pod.is_loaded for pod, life in zip(pair, lives, strict=True))
        does_fail = any(self.behaviour(self.sets[pod.set_name]).fails_probes for pod in pair) if is_alive else True
        for pod in pair:
            if self.pods.get(pod.name) is pod and pod.is_loaded and pod.probe is not ProbeResult.PASSED:
                pod.probe, pod.probed_at = ProbeResult.FAILED if does_fail else ProbeResult.PASSED, self.now

    def _drain_worker(self, action: DrainWorker) -> None:
        self.pods[action.pod].phase = StartPhase.DRAINING

    def _mark_available(self, action: MarkAvailable) -> None:
        known = self.revisions[action.revision]
        self.revisions[action.revision] = replace(known, available_at=action.at, sizes=action.sizes)

    def _mark_failed(self, action: MarkFailed) -> None:
        self.revisions[action.revision] = replace(self.revisions[action.revision], failed=action.reason)

    def _start_revision(self, action: StartRevision) -> None:
        known = self.revisions.get(action.revision)
        self.revisions[action.revision] = Revision(
            name=action.revision,
            number=action.number,
            spec=self.service.spec if known is None else known.spec,
            started_at=action.at,
            available_at=known.available_at if known else None,
            sizes=known.sizes if known else {},
        )

    # -- observation --------------------------------------------------------------------------------------------------

    def _with_present(self, known: Revision) -> Any:
        """As StoredRevision.spec: its own model, engine and topology, the present numbers and rules."""
        kept = {name: getattr(known.spec, name) for name in ("model", "engine", "topology", "accelerator")}
        pools = self.service.spec.pools if known.spec.topology is self.service.spec.topology else known.spec.pools
        return self.service.spec.model_copy(update={**kept, "pools": pools})

    def _group(self, owner: Set) -> Group:
        return Group(
            name=owner.name,
            revision=owner.revision,
            role=owner.role,
            index=owner.index,
            num_pods=owner.num_pods,
            created_at=owner.created_at,
            is_deleting=owner.is_deleting,
            is_drain_requested=owner.is_drain_requested,
            memo=owner.memo,
            pods=tuple(self._pod(owner, pod) for pod in self.pods_of(owner)),
        )

    def _pod(self, owner: Set, pod: Pod) -> PodState:
        return PodState(
            uid=pod.uid,
            name=pod.name,
            ordinal=pod.ordinal,
            node=pod.node,
            is_gated=pod.is_gated,
            is_terminating=pod.is_terminating,
            is_loaded=pod.is_loaded,
            is_routable=pod.is_routable,
            route_reason=pod.route_reason,
            unrouted_at=pod.unrouted_at,
            probe=pod.probe,
            probed_at=pod.probed_at,
            unschedulable_since=pod.unschedulable_since,
            num_restarts=pod.num_restarts,
            load=self._load_of(owner, pod),
        )

    def _load_of(self, owner: Set, pod: Pod) -> WorkerLoad | None:
        how = self.behaviour(owner)
        is_silent = how.is_silent or (self.are_followers_silent and pod.ordinal > 0)
        if not pod.node or self.is_node_lost(pod.node) or is_silent:
            return None
        return WorkerLoad(
            seen_at=self.now,
            phase=pod.phase,
            fraction=pod.fraction,
            running=pod.running,
            leases=pod.leases,
            stepped_at=pod.stepped_at if pod.is_stalled else self.now,
            failed_total=int(pod.finished * how.error_rate),
            finished_total=pod.finished,
            ttft_seconds=how.ttft_seconds,
            ttft_count=pod.finished,
        )

    def _node_view(self) -> dict[str, NodeState] | None:
        if self.nodes is None:
            return None
        used: dict[str, int] = dict.fromkeys(self.nodes, 0)
        for world in (self, *self.neighbours):
            for pod in world.pods.values():
                if pod.node in used:
                    used[pod.node] += world.sets[pod.set_name].gpus
        return {name: replace(node, used={"amd.com/gpu": used[name]}) for name, node in self.nodes.items()}


def gpu_nodes(number: int, *, gpus: int = 8) -> dict[str, NodeState]:
    """Healthy nodes n0, n1, ... with MI300X."""
    offered = {"amd.com/gpu": gpus, "amd.com/nic": 8}
    labels = {"amd.com/gpu.device-id": "74a1"}
    names = [f"n{i}" for i in range(number)]
    return {name: NodeState(name=name, labels=labels, capacity=offered, allocatable=offered) for name in names}


def is_settled(world: World) -> bool:
    """The asked revision serves with all its groups, and nothing else is left."""
    spec = world.service.spec
    asked = world.renderer.revision_of(spec, template_version=None, restart="")
    wanted = {Role.DECODE: spec.pools.decode.replicas}
    if spec.pools.prefill is not None:
        wanted[Role.PREFILL] = spec.pools.prefill.replicas
    return settled_at(world, asked, wanted)


def settled_at(world: World, revision: str, wanted: dict[Role, int]) -> bool:
    """Only groups of `revision`, as many as wanted, all of them routable."""
    have = dict.fromkeys(wanted, 0)
    for owner in world.sets.values():
        pods = world.pods_of(owner)
        serving = [pod for pod in pods if pod.is_routable and pod.is_loaded and not pod.is_terminating]
        is_serving = len(serving) == owner.num_pods
        if owner.revision != revision or owner.is_deleting or not is_serving or owner.memo.drain is not None:
            return False
        have[owner.role] = have.get(owner.role, 0) + 1
    return have == wanted


AGGREGATED = Topology.AGGREGATED
