"""Random interleavings of everything that can happen to leases, against a model of blocks and of what readers saw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from proa_workers.core.lease import Event, Lease, Reader, State
from proa_workers.errors import StaleTransfer, UnknownTransfer
from proa_workers.kv.lease_table import LeaseTable

NUM_BLOCKS = 12
LEASE_SECONDS, UNCLAIMED_SECONDS = 10.0, 4.0
readers = st.sampled_from(["a", "b", "claimer", "claimer"])
picks = st.integers(0, 10**6)


class Leases(RuleBasedStateMachine):
    """A block has a version that grows when it is used anew; a reader remembers the versions that it read."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = LeaseTable(
            engine_id="p", epoch=1, lease_seconds=LEASE_SECONDS, unclaimed_seconds=UNCLAIMED_SECONDS
        )
        self.free = list(range(NUM_BLOCKS))
        self.version = [0] * NUM_BLOCKS
        self.leases: list[Lease] = []
        self.num_unpinned: dict[str, int] = {}
        self.committed: set[tuple[str, Reader]] = set()
        self.read: dict[tuple[str, Reader], list[int]] = {}
        self.sends: list[tuple[Lease, list[int]]] = []
        self.epochs = dict.fromkeys("ab", 1)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Do something that may be refused, then give freed blocks back as the owner does."""
        with suppress(StaleTransfer, UnknownTransfer):
            yield
        for lease in self.table.take_freed():
            self.num_unpinned[lease.transfer.transfer_id] = self.num_unpinned.get(lease.transfer.transfer_id, 0) + 1
            assert not any(held is lease for held, _ in self.sends), "freed during a send"
            self.free += lease.block_ids

    def pick(self, number: int) -> Lease:
        """Mostly one that is not over."""
        ongoing = [lease for lease in self.leases if lease.state is not State.FREE]
        among = ongoing if ongoing and number % 4 else self.leases
        return among[-1 - number // 4 % min(len(among), 4)]

    def reader(self, name: str, lease: Lease | None = None) -> Reader:
        if name == "claimer":
            return lease.reader if lease and lease.reader else Reader("a", self.epochs["a"])
        return Reader(name, self.epochs[name])

    def versions(self, lease: Lease) -> list[int]:
        return [self.version[block] for block in lease.block_ids]

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.9, 4.0, 9.9, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        with self.step():
            self.table.sweep(self.now)

    @precondition(lambda self: self.free)
    @rule(count=st.integers(1, 3), progress=st.integers(0, 3))
    def offer(self, count: int, progress: int) -> None:
        blocks, self.free = self.free[-count:], self.free[:-count]  # those freed last, to provoke reuse
        for block in blocks:
            self.version[block] += 1
        lease = self.table.open(f"t{len(self.leases)}", blocks, len(blocks) * 16, self.now)
        self.leases.append(lease)
        with self.step():
            self.advance(lease, progress)

    def advance(self, lease: Lease, progress: int) -> None:
        self.table.apply(lease.transfer, Event.FILL, self.now)
        if progress >= 1:
            self.table.apply(lease.transfer, Event.SEAL, self.now)
        if progress >= 2:
            reader = self.reader("a")
            self.table.see_peer(reader, self.now)
            self.table.apply(lease.transfer, Event.CLAIM, self.now, reader)
            self.read[lease.transfer.transfer_id, reader] = self.versions(lease)

    @precondition(lambda self: self.leases)
    @rule(number=picks)
    def seal(self, number: int) -> None:
        with self.step():
            self.table.apply(self.pick(number).transfer, Event.SEAL, self.now)

    @precondition(lambda self: self.leases)
    @rule(number=picks, name=readers)
    def reserve_and_read(self, number: int, name: str) -> None:
        lease = self.pick(number)
        reader = self.reader(name, lease)
        with self.step():
            self.table.see_peer(reader, self.now)
            self.table.apply(lease.transfer, Event.CLAIM, self.now, reader)
            self.read[lease.transfer.transfer_id, reader] = self.versions(lease)

    @precondition(lambda self: self.leases)
    @rule(number=picks, name=readers, event=st.sampled_from([Event.RENEW, Event.RELEASE, Event.ABORT]))
    def message(self, number: int, name: str, event: Event) -> None:
        lease = self.pick(number)
        with self.step():
            self.table.apply(lease.transfer, event, self.now, self.reader(name, lease))

    @precondition(lambda self: self.leases)
    @rule(number=picks, name=readers)
    def commit(self, number: int, name: str) -> None:
        lease = self.pick(number)
        reader = self.reader(name, lease)
        with self.step():
            versions_now, key = self.versions(lease), (lease.transfer.transfer_id, reader)
            self.table.apply(lease.transfer, Event.COMMIT, self.now, reader)
            is_repeat = key in self.committed
            assert is_repeat or self.read[key] == versions_now, "an accepted Commit covers blocks that were used anew"
            self.committed.add(key)

    @precondition(lambda self: self.leases)
    @rule(number=picks)
    def revoke(self, number: int) -> None:
        with self.step():
            self.table.apply(self.pick(number).transfer, Event.REVOKE, self.now)

    @precondition(lambda self: self.leases)
    @rule(number=picks, name=readers)
    def begin_send(self, number: int, name: str) -> None:
        lease = self.pick(number)
        with self.step():
            held = self.table.begin_send(lease.transfer, self.reader(name, lease), lease.block_ids[:1], self.now)
            self.sends.append((held, self.versions(held)))

    @precondition(lambda self: self.sends)
    @rule(number=picks)
    def end_send(self, number: int) -> None:
        lease, versions = self.sends.pop(number % len(self.sends))
        assert self.versions(lease) == versions, "blocks were used anew while they were sent"
        with self.step():
            self.table.unhold(lease, self.now)

    @rule(name=st.sampled_from("ab"))
    def restart_reader(self, name: str) -> None:
        self.epochs[name] += 1
        with self.step():
            self.table.see_peer(self.reader(name), self.now)

    @precondition(lambda self: self.leases)
    @rule(number=picks, shift=st.sampled_from([-1, 1]), event=st.sampled_from([Event.CLAIM, Event.COMMIT, Event.ABORT]))
    def wrong_generation(self, number: int, shift: int, event: Event) -> None:
        transfer = self.pick(number).transfer
        with self.step(), pytest.raises((StaleTransfer, UnknownTransfer)):
            self.table.apply(transfer._replace(generation=transfer.generation + shift), event, self.now, Reader("a", 1))

    @invariant()
    def nothing_is_lost_or_freed_twice(self) -> None:
        assert all(count == 1 for count in self.num_unpinned.values())
        leased = [b for lease in self.leases if lease.state is not State.FREE for b in lease.block_ids]
        assert sorted(self.free + leased) == list(range(NUM_BLOCKS))

    def teardown(self) -> None:
        for lease, _ in self.sends:
            self.table.unhold(lease, self.now)
        self.sends.clear()
        for _ in range(2):  # a lease time to expire, another one of grace
            self.now += LEASE_SECONDS
            with self.step():
                self.table.sweep(self.now)
        assert len(self.table) == 0
        assert sorted(self.free) == list(range(NUM_BLOCKS))


LEASE_SETTINGS = settings(max_examples=200, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
TestLeases = Leases.TestCase
TestLeases.settings = LEASE_SETTINGS


@pytest.mark.parametrize("fault", ["no fence for sends", "late commit accepted", "freed twice"])
def test_planted_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "no fence for sends":
        monkeypatch.setattr(Lease, "hold", lambda self: None)
        monkeypatch.setattr(Lease, "unhold", lambda self, now: True)
    elif fault == "late commit accepted":
        move = Lease._move
        monkeypatch.setattr(Lease, "_move", lambda self, event, now: event is Event.COMMIT or move(self, event, now))
        monkeypatch.setattr(Lease, "_settle", free_at_once)
    else:
        collect = LeaseTable._collect
        monkeypatch.setattr(LeaseTable, "_collect", lambda self, lease: (collect(self, lease), repeat(self)))
    quick = settings(  # many examples, since it ends with the first that finds the fault
        LEASE_SETTINGS, max_examples=5000, database=None, phases=(Phase.generate,), report_multiple_bugs=False
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Leases, settings=quick)


def free_at_once(lease: Lease, now: float) -> None:
    if lease.state in (State.CONSUMED, State.QUARANTINE) and not lease.num_holds:
        lease.state = State.FREE


def repeat(table: LeaseTable) -> None:
    table._freed += table._freed[-1:]
