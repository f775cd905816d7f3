"""Aggregated and Disaggregated: what each can carry, and the change from one to the other under load."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
from proa_operator.api.service import Topology
from proa_operator.names import Role
from proa_operator.plan import topology
from proa_operator.plan.actions import Probe

from tests.unit.plan_fakes import service
from tests.unit.plan_invariants import Invariants, gateway_has_workers
from tests.unit.plan_world import World, gpu_nodes, is_settled

P, D = Role.PREFILL, Role.DECODE
AGGREGATED, DISAGGREGATED = Topology.AGGREGATED, Topology.DISAGGREGATED


@pytest.mark.parametrize(
    ("kind", "have", "desired", "wanted"),
    [
        (DISAGGREGATED, {P: 3, D: 2}, {P: 3, D: 2}, Fraction(1)),
        (DISAGGREGATED, {P: 3, D: 1}, {P: 3, D: 2}, Fraction(1, 2)),
        (DISAGGREGATED, {P: 1, D: 2}, {P: 3, D: 2}, Fraction(1, 3)),
        (DISAGGREGATED, {P: 6, D: 4}, {P: 3, D: 2}, Fraction(2)),
        (DISAGGREGATED, {P: 3}, {P: 3, D: 2}, Fraction(0)),
        (DISAGGREGATED, {P: 3, D: 2}, {P: 0, D: 0}, Fraction(0)),
        (AGGREGATED, {D: 2}, {D: 4}, Fraction(1, 2)),
        (AGGREGATED, {P: 1, D: 2}, {P: 2, D: 2}, Fraction(3, 4)),
        (AGGREGATED, {}, {}, Fraction(0)),
    ],
)
def test_capacity(kind: Topology, have: dict[Role, int], desired: dict[Role, int], wanted: Fraction) -> None:
    assert topology.capacity(kind, have, desired) == wanted


@pytest.mark.parametrize(
    ("kind", "desired", "lost", "wanted"),
    [
        (DISAGGREGATED, {P: 4, D: 2}, 0, Fraction(1)),
        (DISAGGREGATED, {P: 4, D: 2}, 1, Fraction(1, 2)),
        (DISAGGREGATED, {P: 1, D: 1}, 1, Fraction(0)),
        (AGGREGATED, {P: 1, D: 3}, 1, Fraction(3, 4)),
    ],
)
def test_floor(kind: Topology, desired: dict[Role, int], lost: int, wanted: Fraction) -> None:
    assert topology.floor(kind, desired, lost) == wanted


@pytest.mark.parametrize(
    ("ready", "wanted"),
    [
        ({P: 3, D: 2}, {P: 3, D: 2}),
        ({P: 3, D: 1}, {P: 2, D: 1}),
        ({P: 1, D: 2}, {P: 1, D: 1}),
        ({P: 3, D: 0}, {P: 0, D: 0}),
    ],
)
def test_matched_numbers_of_three_to_two(ready: dict[Role, int], wanted: dict[Role, int]) -> None:
    assert topology.matched(DISAGGREGATED, ready, {P: 3, D: 2}) == wanted


def served(revisions: list[tuple[int, int]], size: tuple[int, int]) -> Fraction:
    desired = dict(zip((P, D), size, strict=True))
    return sum((topology.capacity(DISAGGREGATED, {P: p, D: d}, desired) for p, d in revisions), Fraction(0))


def may_go(revisions: list[tuple[int, int]], which: int, size: tuple[int, int]) -> bool:
    """A prefill or a decode group of one revision may leave without a loss below what is desired."""
    prefill, decode = revisions[which]
    for fewer in ((prefill - 1, decode), (prefill, decode - 1)):
        rest = served([*revisions[:which], fewer, *revisions[which + 1 :]], size)
        if min(fewer) >= 0 and (rest >= 1 or rest == served(revisions, size)):
            return True
    return False


def test_two_revisions_with_all_surge_used_can_always_hand_over() -> None:
    for size in itertools.product(range(1, 9), repeat=2):
        for old in itertools.product(range(size[0] + 1), range(size[1] + 1)):
            new = (size[0] + 1 - old[0], size[1] + 1 - old[1])
            if any(old) and served([old, new], size) >= 1:
                assert may_go([old, new], 0, size), f"{old} and {new} of {size}"


def test_three_revisions_can_lock() -> None:
    new, *others = revisions = [(2, 2), (2, 1), (2, 1)]
    assert new
    assert served(revisions, (5, 3)) > 1
    assert not any(may_go(revisions, which, (5, 3)) for which in range(1, 1 + len(others)))


def aggregated(decode: int, *, prefill: int | None = None, **fields: Any) -> Any:
    return service(prefill=prefill, decode=decode, topology="Aggregated", **fields)


CHANGES = {
    "one pool to two": (aggregated(4), service(prefill=2, decode=2)),
    "two pools to one": (service(prefill=2, decode=2), aggregated(4)),
    "same pools, both ways of use": (service(prefill=2, decode=2), aggregated(2, prefill=2)),
    "same pools, back": (aggregated(2, prefill=2), service(prefill=2, decode=2)),
    "to odd numbers": (service(prefill=3, decode=1), aggregated(5)),
    "from odd numbers": (aggregated(3), service(prefill=1, decode=2)),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_change_under_load(before: Any, after: Any) -> None:
    world = World(before, watchers=[Invariants(), gateway_has_workers])
    assert world.run(600, until=lambda: is_settled(world))
    world.change(after)
    assert world.run(3000, until=lambda: is_settled(world))
    world.run(60)
    assert not world.plan().actions
    assert world.gateway is not None
    assert world.gateway.topology is after.spec.topology
    assert ("WorkerPool", "s-prefill") in world.present or after.spec.pools.prefill is None


def test_aggregated_needs_no_probe() -> None:
    world = World(aggregated(2))
    assert world.run(600, until=lambda: is_settled(world))
    assert not any(isinstance(action, Probe) for action in world.log)


def test_aggregated_group_starts_without_a_partner() -> None:
    accelerator = {"product": "MI300X", "gpusPerPod": 8}
    world = World(aggregated(1, prefill=1, accelerator=accelerator), nodes=gpu_nodes(1))
    world.run(60)
    assert [pod.is_routable for pod in world.pods.values() if not pod.is_gated] == [True]
