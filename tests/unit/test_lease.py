"""The lease machine as a table: what each event does in each state, who may send it, and when blocks are free."""

from __future__ import annotations

import pytest
from proa_workers.core.lease import Event, Lease, Outcome, Reader, State, Transfer
from proa_workers.errors import StaleTransfer

ALICE, BOB = Reader("alice", 1), Reader("bob", 1)
LEASE_SECONDS = 10.0

# Rows: state before; columns: event; cells: state after, with a claimed lease that is held (so nothing gets FREE), "-"
# where it is refused. R reserved, F filling, Y ready, C consumed, Q quarantine, X free.
TABLE = """
      fill seal claim renew commit release abort expire peer_restart revoke fence
R     F    -    R     R     -      Q       Q     Q      Q            Q      -
F     -    Y    F     F     -      Q       Q     Q      Q            Q      -
Y     -    -    Y     Y     C      Q       Q     Q      Q            Q      -
C     -    -    -     -     C      C       C     -      C            -      X
Q     -    Q    -     -     -      Q       Q     Q      Q            Q      X
X     -    -    -     -     X      X       X     -      X            -      -
"""
LETTERS = dict(zip("RFYCQX", State, strict=True))


def cells() -> list[tuple[State, Event, State | None]]:
    header, *rows = (line.split() for line in TABLE.strip().splitlines())
    return [
        (LETTERS[row[0]], Event(name), LETTERS.get(cell))
        for row in rows
        for name, cell in zip(header, row[1:], strict=True)
    ]


def lease_in(state: State, reader: Reader | None = ALICE) -> Lease:
    is_over = state in (State.CONSUMED, State.QUARANTINE, State.FREE)
    return Lease(
        transfer=Transfer("holder", 1, "t", 1),
        block_ids=(3, 4),
        num_tokens=20,
        lease_seconds=LEASE_SECONDS,
        deadline=LEASE_SECONDS,
        state=state,
        reader=reader,
        outcome=(Outcome.CONSUMED if state is not State.QUARANTINE else Outcome.EXPIRED) if is_over else None,
    )


def test_table_covers_every_pair() -> None:
    assert {(state, event) for state, event, _ in cells()} == {(s, e) for s in State for e in Event}


@pytest.mark.parametrize(("state", "event", "after"), cells())
def test_transition(state: State, event: Event, after: State | None) -> None:
    lease = lease_in(state)
    lease.hold()
    if after is None:
        with pytest.raises(StaleTransfer, match="does not allow"):
            lease.apply(event, now=1.0)
        assert lease.state is state
    else:
        lease.apply(event, now=1.0)
        assert lease.state is after


@pytest.mark.parametrize(
    ("claimed_by", "sender", "event", "is_allowed"),
    [
        (None, BOB, Event.CLAIM, True),
        (None, BOB, Event.RELEASE, True),
        (None, BOB, Event.ABORT, True),
        (None, BOB, Event.RENEW, False),
        (None, BOB, Event.COMMIT, False),
        (ALICE, ALICE, Event.CLAIM, True),
        (ALICE, BOB, Event.CLAIM, False),
        (ALICE, BOB, Event.RELEASE, False),
        (ALICE, BOB, Event.ABORT, False),
        (ALICE, BOB, Event.COMMIT, False),
        (ALICE, ALICE._replace(epoch=2), Event.COMMIT, False),
        (ALICE, ALICE, Event.COMMIT, True),
    ],
)
def test_who_may_send(claimed_by: Reader | None, sender: Reader, event: Event, is_allowed: bool) -> None:
    lease = lease_in(State.READY, claimed_by)
    if is_allowed:
        lease.apply(event, 1.0, sender)
    else:
        with pytest.raises(StaleTransfer, match="is not claimed by"):
            lease.apply(event, 1.0, sender)
        assert (lease.state, lease.reader, lease.is_acked) == (State.READY, claimed_by, False)


@pytest.mark.parametrize(
    ("events", "is_held", "at", "state"),
    [
        ([Event.COMMIT], False, 1.0, State.FREE),
        ([Event.COMMIT], True, 99.0, State.CONSUMED),  # a local send is never overtaken
        ([Event.ABORT], False, 1.0, State.FREE),
        ([Event.ABORT], True, 99.0, State.QUARANTINE),
        ([Event.PEER_RESTART], False, 1.0, State.FREE),
        ([Event.REVOKE], False, 10.9, State.QUARANTINE),  # revoked at 1: the reader has until 11 to notice
        ([Event.REVOKE], False, 11.0, State.FREE),
        ([Event.REVOKE, Event.RELEASE], False, 2.0, State.FREE),
        ([], False, 9.9, State.READY),
        ([], False, 10.0, State.QUARANTINE),
        ([Event.RENEW], False, 10.9, State.READY),
        ([Event.RENEW], False, 11.0, State.QUARANTINE),
    ],
)
def test_fence(events: list[Event], is_held: bool, at: float, state: State) -> None:
    lease = lease_in(State.READY)
    if is_held:
        lease.hold()
    for event in events:
        lease.apply(event, 1.0, ALICE if event is not Event.REVOKE and event is not Event.PEER_RESTART else None)
    lease.tick(at)
    assert lease.state is state


def test_unclaimed_expiry_needs_no_grace() -> None:
    lease = lease_in(State.READY, reader=None)
    lease.tick(LEASE_SECONDS)
    assert (lease.state, lease.outcome) == (State.FREE, Outcome.UNCLAIMED)


def test_late_commit_is_refused_but_acknowledges() -> None:
    lease = lease_in(State.READY)
    lease.apply(Event.REVOKE, 1.0)
    with pytest.raises(StaleTransfer, match="does not allow commit"):
        lease.apply(Event.COMMIT, 2.0, ALICE)
    assert (lease.state, lease.outcome) == (State.FREE, Outcome.REVOKED)


@pytest.mark.parametrize("state", [State.RESERVED, State.FILLING])
def test_early_commit_is_refused_and_the_reader_still_gets_its_time_to_stop(state: State) -> None:
    lease = lease_in(state)
    with pytest.raises(StaleTransfer, match="does not allow commit"):
        lease.apply(Event.COMMIT, 1.0, ALICE)
    lease.apply(Event.REVOKE, 2.0)
    lease.tick(2.0 + LEASE_SECONDS / 2)
    assert lease.state is State.QUARANTINE
    lease.tick(2.0 + LEASE_SECONDS)
    assert lease.state is State.FREE


def test_repeated_last_message_gets_the_first_answer() -> None:
    lease = lease_in(State.READY)
    for event in (Event.COMMIT, Event.COMMIT, Event.ABORT, Event.RELEASE):
        lease.apply(event, 1.0, ALICE)
    assert (lease.state, lease.outcome) == (State.FREE, Outcome.CONSUMED)
    aborted = lease_in(State.READY)
    aborted.apply(Event.ABORT, 1.0, ALICE)
    with pytest.raises(StaleTransfer):
        aborted.apply(Event.COMMIT, 1.0, ALICE)


def test_hold_reports_whether_the_lease_was_valid() -> None:
    lease = lease_in(State.READY)
    lease.hold()
    lease.hold()
    assert lease.unhold(1.0)
    lease.apply(Event.REVOKE, 2.0)
    assert not lease.unhold(2.0)
    with pytest.raises(AssertionError, match="held by nobody"):
        lease.unhold(3.0)
