"""What must hold at every event of a simulated cluster, judged from the cluster alone and not by the planner's code."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from proa_operator.api.service import Topology
from proa_operator.names import Role
from proa_operator.plan.actions import Action, Delete, Route, Ungate

from tests.unit.plan_world import AFTER_PROBE, Set, World


class Broken(AssertionError):
    """An invariant does not hold."""


class Invariants:
    """A watcher for `World.watchers`; raises Broken.

    After each own action: pair capacity (what is ready, and what served and crashed) does not fall below the floor;
    no ungating takes more GPUs than desired + surge of the role; no prefill is left without decode of its revision;
    nothing with a running request or a lease is deleted before the drain's timeout. At each event: a pairing protocol
    belongs to one revision.
    """

    def __init__(self) -> None:
        self.capacity = Fraction(0)
        self.was_available = False
        self.num_checks = 0
        self.routed: set[str] = set()
        self.ending: set[str] = set()

    def __call__(self, world: World, action: Action | None) -> None:
        self.num_checks += 1
        one_revision_per_protocol(world)
        before, self.capacity = self.capacity, counted_capacity(world)
        self.was_available = self.was_available or self.capacity >= 1
        routed, self.routed = self.routed, {pod.name for pod in world.pods.values() if pod.is_routable}
        ending, self.ending = self.ending, {pod.uid for pod in world.pods.values() if pod.is_terminating}
        if action is None:
            return
        if self.was_available and self.capacity < before and self.capacity < floor(world):
            raise Broken(f"{action} lowers the capacity from {before} to {self.capacity}, below {floor(world)}")
        if isinstance(action, Ungate):
            within_budget(world, action)
        if isinstance(action, Route) and action.pod in routed - self.routed:
            decode_outlasts_prefill(world, action)
        if isinstance(action, Delete) and action.kind == "StatefulSet":
            nothing_is_cut(world, action, ending)


def one_revision_per_protocol(world: World) -> None:
    revisions: dict[str, set[str]] = {}
    for pod in world.pods.values():
        if pod.is_routable and not pod.is_terminating:
            revisions.setdefault(pod.protocol, set()).add(world.sets[pod.set_name].revision)
    for protocol, found in revisions.items():
        if len(found) > 1:
            raise Broken(f"pairing protocol {protocol} joins the revisions {sorted(found)}")


def is_counted(world: World, owner: Set) -> bool:
    """Ready for traffic, held back or not, or was once and crashed; not on its way out."""
    if owner.is_deleting or owner.memo.drain is not None:
        return False
    pods = world.pods_of(owner)
    is_up = len(pods) == owner.num_pods and all(pod.is_loaded and not pod.is_terminating for pod in pods)
    return owner.has_served or (is_up and any(pod.route_reason in AFTER_PROBE for pod in pods))


def counted_capacity(world: World) -> Fraction:
    counts: dict[str, Counter[Role]] = {}
    for owner in world.sets.values():
        if is_counted(world, owner):
            counts.setdefault(owner.revision, Counter())[owner.role] += 1
    return sum((share(world, revision, have) for revision, have in counts.items()), Fraction(0))


def desired(world: World) -> dict[Role, int]:
    """The manifest's numbers, or what was scaled by hand since the manifest was followed."""
    pools = world.service.spec.pools
    found = {Role.DECODE: pools.decode.replicas}
    if pools.prefill is not None:
        found[Role.PREFILL] = pools.prefill.replicas
    by_hand = {role: pool.replicas for role, pool in world.pools.items() if pool.declared == found.get(role)}
    return found | by_hand


def share(world: World, revision: str, have: Counter[Role]) -> Fraction:
    known, wanted = world.revisions[revision], desired(world)
    if known.spec.topology is not world.service.spec.topology:
        wanted = dict(known.sizes)
    return of_topology(known.spec.topology, have, wanted)


def of_topology(topology: Topology, have: Counter[Role], wanted: dict[Role, int]) -> Fraction:
    if topology is Topology.AGGREGATED:
        total = sum(wanted.values())
        return Fraction(sum(have.values()), total) if total else Fraction(0)
    if not (wanted.get(Role.PREFILL) and wanted.get(Role.DECODE)):
        return Fraction(0)
    return min(Fraction(have[role], wanted[role]) for role in Role)


def floor(world: World) -> Fraction:
    spec, wanted = world.service.spec, desired(world)
    lost = spec.rollout.max_unavailable_groups
    if spec.topology is Topology.AGGREGATED:
        total = sum(wanted.values())
        return Fraction(max(0, total - lost), total) if total else Fraction(0)
    if not all(wanted.values()):
        return Fraction(0)
    return min(Fraction(max(0, number - lost), number) for number in wanted.values())


def within_budget(world: World, action: Ungate) -> None:
    """GPUs of ungated and terminating pods; those on nodes that nobody can reach are of no use to anybody."""
    role = world.sets[action.group].role
    holding, size = 0, 1
    for owner in world.sets.values():
        size = max(size, owner.num_pods) if owner.role is role else size
        for pod in world.pods_of(owner):
            holds = not pod.is_gated and not world.is_node_lost(pod.node)
            holding += owner.role is role and holds
    sizes = [desired(world).get(role, 0)]
    sizes += [known.sizes.get(role, 0) for known in world.revisions.values() if is_foreign(world, known.name)]
    limit = (max(sizes) + world.service.spec.rollout.max_surge_groups) * size
    if holding > limit:
        raise Broken(f"{holding} {role} pods hold devices, more than {limit}")


def is_foreign(world: World, revision: str) -> bool:
    return world.revisions[revision].spec.topology is not world.service.spec.topology


def decode_outlasts_prefill(world: World, action: Route) -> None:
    owner = world.sets[world.pods[action.pod].set_name]
    is_paired = world.revisions[owner.revision].spec.topology is Topology.DISAGGREGATED
    is_whole = sum(pod.is_loaded and not pod.is_terminating for pod in world.pods_of(owner)) == owner.num_pods
    if owner.role is not Role.DECODE or not is_paired or not is_whole:
        return
    leaders = [
        (world.sets[pod.set_name], pod)
        for pod in world.pods.values()
        if pod.ordinal == 0 and pod.is_loaded and not pod.is_terminating
    ]
    same = [(found, pod) for found, pod in leaders if found.revision == owner.revision]
    has_prefill = any(found.role is Role.PREFILL and (pod.is_routable or pod.running) for found, pod in same)
    has_decode = any(found.role is Role.DECODE and pod.is_routable for found, pod in same)
    if has_prefill and not has_decode:
        raise Broken(f"{action.pod} was the last decode worker for the prefill workers of {owner.revision}")


def nothing_is_cut(world: World, action: Delete, ending: set[str]) -> None:
    """`ending`: pods that were terminating before."""
    owner = world.sets.get(action.name)
    if owner is None:
        return
    drain = owner.memo.drain
    timeout = world.service.spec.drain.timeout_seconds
    if drain is not None and world.now - drain.since >= timeout:
        return
    if any(world.is_node_lost(pod.node) for pod in world.pods_of(owner)):
        return  # the others cannot finish anything without it
    for pod in world.pods_of(owner):
        if pod.uid not in ending and pod.is_loaded and (pod.running or pod.leases):
            raise Broken(f"{action.name} is deleted with {pod.running} requests and {pod.leases} leases")


def gateway_has_workers(world: World, action: Action | None) -> None:
    """A watcher. Once a group has served, every gateway that may still run finds workers of its topology."""
    if action is None or not any(owner.has_served for owner in world.sets.values()):
        return
    for kind in world.gateway_kinds:
        routed = (pod for pod in world.pods.values() if pod.is_routable and not pod.is_terminating)
        if not any(world.revisions[pod.protocol].spec.topology is kind for pod in routed):
            raise Broken(f"after {action} the {kind.value} gateway has no worker")
