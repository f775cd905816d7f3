"""Leader election on a shared clock: one leader at a time, a dead one is replaced, a sleeper writes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proa_operator.cluster.api import Ref
from proa_operator.cluster.election import Election
from proa_operator.cluster.errors import Conflict, Gone, LostLease, Unreachable
from proa_operator.cluster.kinds import LEASE
from proa_operator.cluster.lease import Terms

TERMS = Terms()
REF = Ref(kind=LEASE, name="proa", namespace="default")


class World:
    """A clock, and a Lease that refuses writes with an old version."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lease: dict[str, Any] | None = None
        self.is_down = False
        self.answer_seconds = 0.0
        self.cut_off: set[str] = set()
        self.changes: list[tuple[str, bool]] = []

    def replica(self, name: str) -> Election:
        def on_change(is_leader: bool) -> None:
            self.changes.append((name, is_leader))

        return Election(Store(self, name), REF, name, terms=TERMS, clock=lambda: self.now, on_change=on_change)


class Store:
    """What one replica reaches of the world."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    async def get(self, ref: Ref) -> dict[str, Any]:
        self._reach()
        if self._world.lease is None:
            raise Gone(404, "NotFound", "no lease")
        return self._world.lease

    async def create(self, ref: Ref, body: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        if self._world.lease is not None:
            raise Conflict(409, "AlreadyExists", "someone was faster")
        return self._keep(body, 1)

    async def replace(self, ref: Ref, body: dict[str, Any]) -> dict[str, Any]:
        self._reach()
        assert self._world.lease is not None
        version = self._world.lease["metadata"]["resourceVersion"]
        if body["metadata"]["resourceVersion"] != version:
            raise Conflict(409, "Conflict", "the object has been modified")
        self._world.now += self._world.answer_seconds
        return self._keep(body, int(version) + 1)

    def _keep(self, body: dict[str, Any], version: int) -> dict[str, Any]:
        self._world.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}
        return self._world.lease

    def _reach(self) -> None:
        if self._world.is_down or self._name in self._world.cut_off:
            raise Unreachable("no answer")


async def until_led(world: World, replica: Election) -> float:
    """Seconds until the replica leads."""
    since = world.now
    while not replica.is_leader:
        world.now += TERMS.look
        await replica.step()
        assert world.now - since < 60.0
    return world.now - since


async def test_the_first_takes_it_and_the_second_waits() -> None:
    world = World()
    first, second = world.replica("a"), world.replica("b")
    for replica in (first, second):
        await replica.step()
    assert (first.is_leader, second.is_leader, first.transitions) == (True, False, 1)
    first.check(reign=1)
    with pytest.raises(LostLease):
        second.check()


@pytest.mark.parametrize("phase", [0.0, 0.1, 0.3, 0.49])
async def test_a_dead_leader_is_replaced_within_the_lease_and_two_looks(phase: float) -> None:
    """`phase` is how long after the last renewal the other looks."""
    world = World()
    first, second = world.replica("a"), world.replica("b")
    for _ in range(4):
        await first.step()
        for pause in (phase, TERMS.look, TERMS.look - phase):
            world.now += pause
            await second.step()
    died_at = world.now - TERMS.retry
    while not second.is_leader:
        world.now += TERMS.look
        await second.step()
        assert world.now - died_at <= TERMS.lease + 2 * TERMS.look + 1e-9 < 10.0
    assert second.transitions == 2


@pytest.mark.parametrize("seconds", [3.0, 6.0, 9.0, 30.0])
async def test_an_outage_of_the_api_server_changes_no_leader(seconds: float) -> None:
    """Whoever is faster afterwards: without the grace the second takes the lease from a leader that lives."""
    world = World()
    first, second = world.replica("a"), world.replica("b")
    await first.step()
    await second.step()
    world.is_down = True
    await pass_time(world, seconds, first, second)
    world.is_down = False
    await second.step()
    await second.step()
    await pass_time(world, 10.0, second, first)
    assert (first.is_leader, second.is_leader, first.transitions) == (True, False, 1)


@pytest.mark.parametrize("seconds", [3.0, 9.0, 30.0])
async def test_a_leader_that_died_in_an_outage_is_replaced(seconds: float) -> None:
    world = World()
    first, second = world.replica("a"), world.replica("b")
    await first.step()
    await second.step()
    world.is_down = True
    await pass_time(world, seconds, second)
    world.is_down = False
    await second.step()
    assert await until_led(world, second) <= max(TERMS.grace, TERMS.lease - seconds) + TERMS.look


async def pass_time(world: World, seconds: float, *replicas: Election) -> None:
    """Each replica steps as often as `run` lets it, in this order."""
    for number in range(round(seconds / TERMS.look)):
        world.now += TERMS.look
        for replica in replicas:
            if not replica.transitions or not number % round(TERMS.retry / TERMS.look):
                await replica.step()


async def test_a_leader_without_an_answer_stops_before_another_starts() -> None:
    world = World()
    first, second = world.replica("a"), world.replica("b")
    await first.step()
    world.cut_off = {"a"}
    stopped_at = started_at = 0.0
    while not second.is_leader:
        world.now += 0.5
        await first.step()
        await second.step()
        stopped_at = stopped_at or (0.0 if first.is_leader else world.now)
        started_at = world.now
    assert started_at - stopped_at >= TERMS.lease - TERMS.renew_deadline - 0.5
    assert world.changes == [("a", True), ("a", False), ("b", True)]


@pytest.mark.parametrize(("pause", "answer_seconds"), [(6.0, 0.0), (4.0, 2.5)])
async def test_a_reign_that_lapsed_and_came_back_is_told_as_two(pause: float, answer_seconds: float) -> None:
    """Without another leader in between; what was left undone meanwhile is planned again only if someone is told."""
    world = World()
    a = world.replica("a")
    await a.step()
    world.now += pause
    world.answer_seconds = answer_seconds
    await a.step()
    assert a.is_leader
    assert world.changes == [("a", True), ("a", False), ("a", True)]


async def test_a_write_has_to_end_before_another_can_lead() -> None:
    world = World()
    first = world.replica("a")
    await first.step()
    assert first.seconds_to_write() == TERMS.lease
    world.now += TERMS.renew_deadline - 0.5
    assert first.seconds_to_write() == TERMS.lease - TERMS.renew_deadline + 0.5
    world.now += 0.5
    with pytest.raises(LostLease):
        first.seconds_to_write()


async def test_a_sleeper_wakes_without_the_lease() -> None:
    world = World()
    first, second = world.replica("a"), world.replica("b")
    await first.step()
    reign = first.transitions
    await until_led(world, second)
    with pytest.raises(LostLease):
        first.check(reign)
    await first.step()
    assert (first.is_leader, first.transitions) == (False, 0)


async def test_a_restarted_leader_reigns_anew() -> None:
    world = World()
    await world.replica("a").step()
    again = world.replica("a")
    await again.step()
    assert (again.is_leader, again.transitions) == (True, 2)
    with pytest.raises(LostLease):
        again.check(reign=1)


async def test_a_deleted_lease_is_made_again() -> None:
    world = World()
    first = world.replica("a")
    await first.step()
    world.lease = None
    first._store.replace = _gone  # type: ignore[method-assign]
    await first.step()
    assert not first.is_leader
    del first._store.replace
    await first.step()
    assert first.is_leader


async def _gone(ref: Ref, body: dict[str, Any]) -> dict[str, Any]:
    raise Gone(404, "NotFound", "no lease")


async def test_the_lease_is_given_back_for_the_next_to_take_at_once() -> None:
    world = World()
    first, second = world.replica("a"), world.replica("b")
    await first.step()
    await second.step()
    await first._give_back()
    assert not first.is_leader
    assert await until_led(world, second) == TERMS.look


EVENTS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "cut a", "cut b", "heal", "down", "up"]), st.floats(0.0, 5.0)),
    max_size=60,
)


@settings(max_examples=200)
@given(events=EVENTS)
async def test_never_two_leaders(events: list[tuple[str, float]]) -> None:
    """Whoever is cut off, whenever each replica gets to run."""
    world = World()
    replicas = {name: world.replica(name) for name in "abc"}
    for event, pause in events:
        world.now += pause
        assert sum(replica.is_leader for replica in replicas.values()) <= 1
        if event in replicas:
            await replicas[event].step()
        elif event in ("down", "up"):
            world.is_down = event == "down"
        else:
            world.cut_off = set() if event == "heal" else world.cut_off | {event.removeprefix("cut ")}
        assert sum(replica.is_leader for replica in replicas.values()) <= 1


async def test_the_check_finds_a_replica_with_a_deadline_beyond_the_lease() -> None:
    """The planted fault: what `test_never_two_leaders` would catch."""
    world = World()
    first, second = world.replica("a"), world.replica("b")
    first._terms = Terms(renew_deadline=30.0)
    await first.step()
    await until_led(world, second)
    assert first.is_leader
    assert second.is_leader
