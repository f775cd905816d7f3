"""Random rollouts, each from one seed: on the simulated cluster, and for tests/cluster on a real API server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Invariants
from tests.unit.plan_world import Behaviour, World, gpu_nodes, is_settled

MODELS = ("bundled://one", "bundled://two", "bundled://three")
AT_MOST_SECONDS = 20_000.0
W = TypeVar("W", bound=World)


@dataclass
class Outcome:
    """What one rollout did."""

    seconds: float
    num_checks: int
    num_actions: int


@dataclass(frozen=True)
class Drawn:
    """What a rollout starts with."""

    first: Any
    """The service that is installed."""
    start_seconds: Mapping[str, float]
    """How long pods take to load, by model."""
    num_nodes: int
    """GPU nodes; 0 for a service that wants no accelerator."""


def rollout(seed: int) -> Outcome:
    """One on the simulated cluster. Broken or AssertionError when it goes wrong."""
    random = Random(seed)
    drawn, invariants = draw(random, seed), Invariants()
    world = world_of(drawn, seed, World, watchers=[invariants])
    seconds = play(world, random, seed)
    assert not world.plan().actions, f"seed {seed}: still busy with {world.plan().actions}"
    return Outcome(seconds=seconds, num_checks=invariants.num_checks, num_actions=len(world.log))


def world_of(drawn: Drawn, seed: int, kind: type[W], **fields: Any) -> W:
    """Before the first install."""
    return kind(
        drawn.first,
        seed=seed,
        behaviours={model: Behaviour(start_seconds=seconds) for model, seconds in drawn.start_seconds.items()},
        period=120.0,
        load_steps=3,
        nodes=gpu_nodes(drawn.num_nodes) if drawn.num_nodes else None,
        **fields,
    )


def play(world: World, random: Random, seed: int) -> float:
    """First install, up to three changes of mind, crashes all along; returns the seconds after the install."""
    assert world.run(AT_MOST_SECONDS, until=lambda: is_settled(world)), f"seed {seed}: the first install hangs"
    begun = world.now
    crashes = [random.uniform(0, 400) for _ in range(random.randrange(5))]
    for at in crashes:
        world.after(at, lambda: _hurt(world, random))
    for _ in range(random.randint(1, 3)):
        world.change(_changed(random, world))
        world.run(random.choice([3.0, 20.0, 60.0, 200.0]))
    world.run(max(0.0, begun + 930 - world.now))
    assert world.run(AT_MOST_SECONDS, until=lambda: is_settled(world)), f"seed {seed}: does not end: {world.status}"
    world.run(60.0)
    assert is_settled(world), f"seed {seed}: does not stay"
    return world.now - begun


def draw(random: Random, seed: int) -> Drawn:
    """Every third has GPU nodes, of which some fail on the way."""
    surge, unavailable = random.choice([(1, 0), (0, 1), (1, 1), (2, 0), (2, 1), (3, 2)])
    has_nodes = seed % 3 == 0
    first = service(
        prefill=random.randint(1, 5),
        decode=random.randint(1, 4),
        model=MODELS[0],
        rollout={"maxSurgeGroups": surge, "maxUnavailableGroups": unavailable, "noProgressSeconds": 1800},
        pools={"prefill": {"nodesPerGroup": random.choice([1, 1, 2])}},
        accelerator={"product": "MI300X", "gpusPerPod": 8} if has_nodes else None,
    )
    start_seconds = {model: random.choice([5.0, 20.0, 90.0]) for model in MODELS}
    return Drawn(first=first, start_seconds=start_seconds, num_nodes=26 if has_nodes else 0)


def _hurt(world: World, random: Random) -> None:
    """A container crashes, a pod is deleted, or a node is cordoned, loses a NIC, or is lost for a while."""
    pods = sorted(world.pods.values(), key=lambda pod: pod.name)
    if not pods:
        return
    pod = random.choice(pods)
    if pod.node and world.nodes is not None and random.random() < 0.6:
        _break(world, random, pod.node)
    else:
        random.choice([world.crash, world.lose_pod])(pod)


def _break(world: World, random: Random, node: str) -> None:
    assert world.nodes is not None
    healthy = world.nodes[node]
    fields: dict[str, Any] = random.choice(
        [{"is_unschedulable": True}, {"is_ready": False}, {"allocatable": {**healthy.allocatable, "amd.com/nic": 7}}]
    )
    mended = {name: getattr(gpu_nodes(1)["n0"], name) for name in fields}
    world.set_node(node, **fields)
    world.after(random.choice([5.0, 100.0, 500.0]), lambda: world.set_node(node, **mended))


def _changed(random: Random, world: World) -> Any:
    """Another model, the same as before, or other numbers."""
    spec = world.service.spec
    assert spec.pools.prefill is not None
    prefill, decode = spec.pools.prefill.replicas, spec.pools.decode.replicas
    if random.random() < 0.3:
        prefill, decode = random.randint(1, 5), random.randint(1, 4)
    return service(
        prefill=prefill,
        decode=decode,
        model=random.choice(MODELS),
        rollout={
            "maxSurgeGroups": spec.rollout.max_surge_groups,
            "maxUnavailableGroups": spec.rollout.max_unavailable_groups,
            "noProgressSeconds": spec.rollout.no_progress_seconds,
        },
        pools={"prefill": {"nodesPerGroup": spec.pools.prefill.nodes_per_group}},
        accelerator={"product": "MI300X", "gpusPerPod": 8} if spec.accelerator is not None else None,
    )
